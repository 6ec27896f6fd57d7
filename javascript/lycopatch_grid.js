// A scrolling grid of any number of cards, of which only those in view are in the page.
// Nothing is measured while scrolling: the sizes come from a ResizeObserver.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const GAP = 10;
    const LIST = { gap: 4, height: 64, width: 440 }; // the least width of a line of the list; wider pages have two beside each other
    const SPARE = 2; // lines beyond what is seen, at both ends together
    const MOVING_LINES = 2; // filled in one frame while scrolling
    const CALM = 2.5; // pixels per millisecond: above that, pictures wait longer

    lycopatch.Grid = class {
        // source: {at(index) → card or undefined}; hooks: {address(url), want(first, last), act(name, row, element), moved(), shown(), hidden()}
        constructor(source, hooks) {
            this.source = source;
            this.hooks = hooks;
            this.count = 0;
            this.active = -1;
            this.look = { size: lycopatch.SIZES.usual, list: false };
            this.width = 0;
            this.height = 0;
            this.lineHeight = 1;
            this.top = 0;
            this.drawnAt = 0;
            this.frame = 0;
            this.goal = 0; // the card to begin with, as soon as there is a size and a card; null: done
            const { make } = lycopatch.dom;
            this.canvas = make("div", { class: "lycopatch-canvas", role: "presentation" });
            const label = lycopatch.words.t("Networks");
            const attributes = { class: "lycopatch-view", role: "grid", tabindex: "0", "aria-multiselectable": "true", "aria-label": label };
            this.element = make("div", attributes, this.canvas);
            this.lines = new lycopatch.Lines(this.canvas, (index) => source.at(index), hooks.address);
            this.keys = new lycopatch.GridKeys(this);
            this.film = new lycopatch.Film(this.canvas, (element) => this.rowOf(element), hooks.address);
            this.draw = this.draw.bind(this);
            this.element.addEventListener("scroll", () => this.schedule(), { passive: true });
            this.sizes = new ResizeObserver((entries) => this.measure(entries[entries.length - 1].contentRect));
            this.sizes.observe(this.element);
        }

        close() {
            cancelAnimationFrame(this.frame);
            clearTimeout(this.calm);
            this.sizes.disconnect();
            this.film.close();
            this.keys.close();
            this.element.remove();
        }

        get visible() {
            return this.width > 0;
        }

        get columns() {
            return this.lines.columns;
        }

        // The card at the upper left corner, to come back to it.
        get topIndex() {
            return this.goal ?? Math.round(this.top / this.lineHeight) * this.columns;
        }

        measure({ width, height }) {
            const goal = this.topIndex;
            if (width === 0 || height === 0) {
                this.goal = goal;
                this.width = 0;
                return this.hooks.hidden();
            }
            const wider = width !== this.width;
            this.width = width;
            this.height = height;
            this.arrange(goal);
            if (wider) this.hooks.shown();
        }

        setLook(look) {
            const goal = this.topIndex;
            this.look = look;
            this.element.classList.toggle("lycopatch-list", look.list);
            this.element.classList.toggle("lycopatch-tiny", !look.list && look.size < 150);
            if (this.visible) this.arrange(goal);
        }

        setCount(count) {
            if (count === this.count) return this.refresh();
            this.count = count;
            if (this.active >= count) this.active = -1;
            if (this.visible) this.arrange(this.topIndex);
        }

        // How many columns, how high, how many lines in the page; then to the card that was on top.
        arrange(goal) {
            const { list, size } = this.look;
            const gap = list ? LIST.gap : GAP;
            const columns = Math.max(1, Math.floor((this.width + gap) / ((list ? LIST.width : size) + gap)));
            const cardWidth = Math.floor((this.width - gap * (columns - 1)) / columns);
            const cardHeight = list ? LIST.height : Math.round((cardWidth * 4) / 3);
            const same = columns === this.columns && cardHeight + gap === this.lineHeight;
            const total = Math.ceil(this.count / columns);
            this.lineHeight = cardHeight + gap;
            this.lines.arrange(columns, Math.min(total, Math.ceil(this.height / this.lineHeight) + 1 + SPARE));
            const { style } = this.canvas;
            style.setProperty("--lycopatch-columns", columns);
            style.setProperty("--lycopatch-gap", `${gap}px`);
            style.setProperty("--lycopatch-height", `${cardHeight}px`);
            style.height = `${Math.max(0, total * this.lineHeight - gap)}px`;
            this.element.setAttribute("aria-rowcount", total);
            this.element.setAttribute("aria-colcount", columns);
            if (same && this.goal === null) this.schedule();
            else this.scrollTo(goal);
        }

        scrollTo(index) {
            const line = Math.floor(Math.min(index, Math.max(0, this.count - 1)) / this.columns);
            this.goal = this.visible && this.count > 0 ? null : index;
            this.jump(line * this.lineHeight);
        }

        jump(top) {
            this.top = top;
            if (this.visible) this.element.scrollTop = top;
            this.schedule();
        }

        // The cards' contents changed.
        refresh() {
            this.lines.stale();
            this.schedule();
        }

        schedule() {
            if (this.frame === 0) this.frame = requestAnimationFrame(this.draw);
        }

        draw(now) {
            this.frame = 0;
            if (!this.visible || this.lines.count === 0) return;
            const top = this.goal === null ? this.element.scrollTop : this.top;
            const way = Math.abs(top - this.top);
            const fast = way / Math.max(1, now - this.drawnAt) > CALM;
            this.top = top;
            this.drawnAt = now;
            this.place();
            const done = way < this.height && this.lines.fill(way > 0 ? MOVING_LINES : Infinity, this.count); // flying over whole screens fills nothing
            clearTimeout(this.calm);
            if (!done) this.schedule();
            else this.calm = setTimeout(() => this.lines.fetchPictures(), fast ? 120 : 30);
            this.keys.mark();
            this.film.check();
            this.hooks.moved();
        }

        place() {
            const shown = this.lines.count;
            const before = Math.floor(this.top / this.lineHeight) - SPARE / 2;
            const first = Math.max(0, Math.min(before, Math.ceil(this.count / this.columns) - shown));
            this.lines.place(first, this.lineHeight);
            this.hooks.want(first * this.columns, Math.min(this.count, (first + shown) * this.columns) - 1);
        }

        rowOf(element) {
            const index = this.lines.indexOf(element);
            return index < 0 ? undefined : this.source.at(index);
        }
    };
})();
