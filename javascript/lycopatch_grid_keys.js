// Keys and clicks on the grid. The grid itself keeps the focus; the active card is named by aria-activedescendant,
// because the element that shows a card shows another one after scrolling.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const ACTS = { Enter: "toggle", " ": "toggle", i: "details", f: "favourite", "+": "heavier", "=": "heavier", "-": "lighter" };

    lycopatch.GridKeys = class {
        constructor(grid) {
            this.grid = grid;
            this.marked = null;
            grid.element.addEventListener("keydown", (event) => this.press(event));
            grid.element.addEventListener("click", (event) => this.click(event));
            grid.element.addEventListener("focus", () => this.enter());
            this.alt = this.alt.bind(this);
            this.wheel = this.wheel.bind(this);
            for (const kind of ["keydown", "keyup", "blur"]) window.addEventListener(kind, this.alt);
        }

        close() {
            for (const kind of ["keydown", "keyup", "blur"]) window.removeEventListener(kind, this.alt);
        }

        // A listener that may stop the wheel makes all scrolling wait for it; so it is there only while Alt is down.
        alt(event) {
            if (event.type === "keydown" && event.key === "Alt") this.grid.element.addEventListener("wheel", this.wheel, { passive: false });
            else if (event.type === "blur" || event.key === "Alt") this.grid.element.removeEventListener("wheel", this.wheel);
        }

        wheel(event) {
            const index = this.grid.lines.indexOf(event.target);
            if (!event.altKey || event.deltaY === 0 || !this.grid.source.at(index)?.chosen) return;
            event.preventDefault();
            this.act(event.deltaY < 0 ? "heavier" : "lighter", index);
        }

        enter() {
            const grid = this.grid;
            if (grid.count === 0 || !grid.element.matches(":focus-visible")) return;
            if (grid.active < 0) grid.active = Math.min(grid.count - 1, Math.ceil(grid.top / grid.lineHeight) * grid.columns);
            this.reveal();
        }

        press(event) {
            if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.grid.element) return;
            const step = this.steps()[event.key];
            const act = ACTS[event.key];
            if (step === undefined && !act) return;
            event.preventDefault();
            event.stopPropagation();
            if (step !== undefined) this.move(step);
            else this.act(act, this.grid.active);
        }

        steps() {
            const { columns, height, lineHeight, count } = this.grid;
            const page = Math.max(1, Math.floor(height / lineHeight)) * columns;
            return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page, Home: -count, End: count };
        }

        move(step) {
            const grid = this.grid;
            if (grid.count === 0) return;
            const last = grid.count - 1;
            const far = Math.abs(step) > grid.columns;
            const next = (grid.active < 0 ? grid.lines.first * grid.columns : grid.active) + step;
            if (next < 0 && !far && step !== -1) return; // up from the first line stays there
            grid.active = Math.max(0, Math.min(last, next));
            this.reveal();
        }

        // Scroll as little as needed, and mark the card.
        reveal() {
            const grid = this.grid;
            const top = Math.floor(grid.active / grid.columns) * grid.lineHeight;
            if (top < grid.top) grid.jump(top);
            else if (top + grid.lineHeight > grid.top + grid.height) grid.jump(top + grid.lineHeight - grid.height);
            this.mark();
        }

        mark() {
            const { grid } = this;
            const element = grid.active < 0 ? null : grid.lines.elementAt(grid.active);
            if (element === this.marked) return;
            if (this.marked) this.marked.classList.remove("lycopatch-active");
            this.marked = element;
            if (element) {
                element.classList.add("lycopatch-active");
                grid.element.setAttribute("aria-activedescendant", element.id);
            } else {
                grid.element.removeAttribute("aria-activedescendant");
            }
        }

        click(event) {
            const index = this.grid.lines.indexOf(event.target);
            if (index < 0) return;
            this.grid.active = index;
            this.mark();
            this.grid.element.focus({ preventScroll: true });
            this.act(event.target.dataset.act || "toggle", index);
        }

        act(name, index) {
            const row = index < 0 ? undefined : this.grid.source.at(index);
            if (row) this.grid.hooks.act(name, row, this.grid.lines.elementAt(index) || this.grid.element);
        }
    };
})();
