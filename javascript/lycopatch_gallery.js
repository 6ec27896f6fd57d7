// The gallery: puts the parts together, and is what they ask for changes. One per container in the page.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const PROMPT_MS = 300; // after the last key in the prompt, the cards' ticks follow
    const NARROW = 700; // pixels; below, the folders lie over the grid
    const LONGEST_PROMPT = 100000; // that the cards' ticks follow
    const STACK_TRIES = 20;

    lycopatch.Gallery = class {
        constructor(container, facts) {
            this.container = container;
            this.context = lycopatch.makeContext(facts, this);
            this.prompt = this.context.prompt;
            this.state = new lycopatch.State(this.context.host, this.context.place);
            this.prompt.use(this.state.values.target);
            this.begun = false;
            this.narrow = false;
            this.leap = false; // to the first card with the next answer
            this.endings = []; // what to call when the container goes away
            const address = (url) => lycopatch.address(this.context, url);
            this.rows = new lycopatch.Rows((window, signal) => this.ask(window, signal), (news) => this.changed(news));
            this.scan = new lycopatch.Scan(this.context, (state) => this.notes.scanned(state), () => this.rows.refresh(true));
            this.grid = new lycopatch.Grid(this.rows, {
                address,
                want: (first, last) => this.rows.want(first, last),
                act: (name, row, element) => this.acts.act(name, row, element),
                moved: () => this.moved(),
                shown: () => this.seen(),
                hidden: () => this.scan.hide(),
            });
            this.acts = new lycopatch.Acts(this);
            this.toolbar = new lycopatch.Toolbar(this);
            this.filters = new lycopatch.Filters(this);
            this.folders = new lycopatch.Folders(this);
            this.notes = new lycopatch.Notes(this);
            this.build();
            this.listen();
        }

        build() {
            const { make } = lycopatch.dom;
            this.stack = make("div", { class: "lycopatch-stack" });
            const cards = make("div", { class: "lycopatch-cards" }, this.grid.element, this.notes.message);
            this.body = make("div", { class: "lycopatch-body" }, this.folders.element, cards);
            const parts = [this.stack, this.toolbar.element, this.notes.chips, this.filters.element, this.notes.status, this.body, this.notes.toast];
            this.container.replaceChildren(...parts);
            const prose = this.container.closest(".prose"); // gradio's rules for written texts are not for cards
            if (prose) {
                prose.classList.remove("prose");
                this.endings.push(() => prose.classList.add("prose"));
            }
            this.container.classList.add("lycopatch-mounted", `lycopatch-in-${this.context.place}`);
            this.resize({});
            this.redraw();
        }

        listen() {
            const wide = new ResizeObserver(([entry]) => {
                this.narrow = entry.contentRect.width < NARROW;
                this.container.classList.toggle("lycopatch-narrow", this.narrow);
            });
            wide.observe(this.container);
            const ticks = lycopatch.dom.later(PROMPT_MS, () => (this.grid.visible ? this.rows.refresh(false) : this.rows.outdate(false)));
            const slash = (event) => this.slash(event);
            document.addEventListener("keydown", slash);
            this.endings.push(
                () => wide.disconnect(),
                () => ticks.stop(),
                () => document.removeEventListener("keydown", slash),
                this.context.onPrompt(ticks),
            );
            this.addStack(STACK_TRIES);
        }

        // The script of the stack may be loaded after this one.
        addStack(tries) {
            if (!lycopatch.mountStack || !lycopatch.mountDryRun) {
                const timer = tries > 0 ? setTimeout(() => this.addStack(tries - 1), 500) : 0;
                this.endings.push(() => clearTimeout(timer));
                return;
            }
            for (const panel of [lycopatch.mountStack(this.context, this.stack), lycopatch.mountDryRun(this.context, this.stack)]) {
                this.endings.push(() => panel.destroy());
            }
        }

        close() {
            for (const end of this.endings) end();
            for (const part of [this.rows, this.scan, this.grid, this.notes, this.prompt, this.state]) part.close();
            this.toolbar.typed.stop();
            this.container.replaceChildren();
        }

        // The grid has a size, or has one again.
        seen() {
            if (this.begun) return void this.scan.back();
            this.begun = true;
            this.grid.scrollTo(this.state.values.top);
            this.rows.reset(this.state.values.top);
            this.redraw();
        }

        ask({ offset, limit, facets }, signal) {
            const { search, filters, sort, descending, seed } = this.state.values;
            const question = { q: search, filters, sort, descending, seed, offset, limit, facets, prompt: this.context.promptOf().slice(0, LONGEST_PROMPT) };
            return lycopatch.request(this.context, "POST", "networks", question, signal);
        }

        // An answer came, or did not.
        changed({ fresh, facets }) {
            const { answer } = this.rows;
            if (answer) {
                this.rows.each((row) => lycopatch.facets.learn(row));
                if (fresh && this.leap) this.grid.scrollTo(0);
                this.leap = fresh ? false : this.leap;
                this.grid.setCount(answer.found);
                if (answer.scanning) this.scan.heard(answer.scanning);
            }
            if (facets) {
                this.filters.show(facets);
                this.folders.show(facets.folder || []);
            }
            this.busy();
            this.notes.update();
        }

        busy() {
            this.grid.element.setAttribute("aria-busy", String(this.rows.busy));
            this.container.classList.toggle("lycopatch-loading", this.rows.busy && !this.rows.answer);
        }

        redraw() {
            this.toolbar.update();
            this.filters.draw();
            this.folders.draw();
            this.notes.drawChips();
            this.notes.update();
            this.busy();
        }

        // Another question: what is searched for, filtered, in which order.
        change(changes) {
            this.state.set({ ...changes, top: 0 });
            this.leap = true;
            this.grid.active = -1;
            if (this.begun) this.rows.reset(0);
            this.redraw();
        }

        shuffle() {
            this.change({ seed: Math.floor(Math.random() * 2 ** 31) });
        }

        clear() {
            this.toolbar.search.value = "";
            this.change({ search: "", filters: {} });
        }

        resize(look) {
            this.state.set(look);
            this.grid.setLook({ size: this.state.values.size, list: this.state.values.list });
            this.toolbar.update();
        }

        show(panel, on) {
            this.state.set({ [panel]: on });
            this.redraw();
        }

        useTarget(index) {
            this.prompt.use(index);
            this.state.set({ target: index });
            this.redraw();
        }

        moved() {
            const top = this.grid.topIndex;
            if (this.begun && this.rows.answer && !this.rows.fresh && top !== this.state.values.top) this.state.set({ top });
        }

        rescan() {
            return this.acts.tried(() => this.scan.begin());
        }

        retry() {
            if (this.rows.answer) this.rows.refresh(true);
            else this.rows.reset(this.state.values.top);
            this.redraw();
        }

        enterGrid() {
            this.grid.element.focus();
        }

        slash(event) {
            if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || !this.grid.visible) return;
            if (event.target.closest?.('input, textarea, select, [contenteditable=""], [contenteditable="true"]')) return;
            event.preventDefault();
            this.toolbar.search.focus();
            this.toolbar.search.select();
        }

        neighbour(id, step) {
            return this.acts.neighbour(id, step);
        }

        // Show at once what a click did; the next answer of the server says the same.
        mark(id, facts) {
            this.rows.each((row) => row.id === id && Object.assign(row, facts));
            this.grid.refresh();
        }
    };
})();
