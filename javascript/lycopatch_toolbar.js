// The row above the grid: search, order, look, and what unfolds beside and above the cards.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const TYPING_MS = 80;

    const ICONS = {
        folders: "M2.5 5h5l2 2h8v9h-15z",
        filters: "M3 4h14l-5.5 6.5V15l-3 2v-6.5z",
        refresh: "M16 10a6 6 0 1 1-1.8-4.3M16 3v4h-4",
        list: "M3 5h14M3 10h14M3 15h14",
        cards: "M3 3h6v6H3zM11 3h6v6h-6zM3 11h6v6H3zM11 11h6v6h-6z",
        up: "M10 17V4M5 9l5-5 5 5",
        down: "M10 3v13M5 11l5 5 5-5",
        shuffle: "M2 6h3.5l8 8.5H18M2 14.5h3.5L8 11.8M11 8.7L13.5 6H18M15.5 3.5L18 6l-2.5 2.5M15.5 12l2.5 2.5-2.5 2.5",
        star: "M10 3l2.2 4.6 5 .7-3.6 3.5.9 5L10 14.4 5.5 16.8l.9-5L2.8 8.3l5-.7z",
    };

    const t = (...values) => lycopatch.words.t(...values);

    function icon(name) {
        const { draw } = lycopatch.dom;
        return draw("svg", { class: "lycopatch-icon", viewBox: "0 0 20 20", "aria-hidden": "true" }, draw("path", { d: ICONS[name] }));
    }

    lycopatch.Toolbar = class {
        // gallery: {state, prompt, change(changes), shuffle(), rescan(), useTarget(index), enterGrid()}
        constructor(gallery) {
            this.gallery = gallery;
            const { make } = lycopatch.dom;
            const state = gallery.state.values;
            this.search = make("input", {
                type: "search",
                class: "lycopatch-search",
                value: state.search,
                placeholder: t("Search names, tags, trigger words, notes …"),
                "aria-label": t("Search networks"),
                "aria-keyshortcuts": "/",
                autocomplete: "off",
                spellcheck: "false",
                oninput: () => this.typed(),
                onkeydown: (event) => this.press(event),
            });
            this.typed = lycopatch.dom.later(TYPING_MS, () => gallery.change({ search: this.search.value.slice(0, 300) }));
            this.folders = this.toggle("folders", t("Folders"), () => gallery.show("folders", !gallery.state.values.folders));
            this.filters = this.toggle("filters", t("Filters"), () => gallery.show("drawer", !gallery.state.values.drawer), t("Filters"));
            this.count = make("span", { class: "lycopatch-count-bubble", hidden: true });
            this.filters.append(this.count);
            this.favourites = this.toggle("star", t("Favourites only"), () => this.onlyFavourites());
            this.order = make("select", { class: "lycopatch-order", "aria-label": t("Sort by"), title: t("Sort by"), onchange: () => this.ordered() });
            for (const [value, title] of lycopatch.ORDERS) this.order.append(make("option", { value }, t(title)));
            this.direction = make("button", { type: "button", class: "lycopatch-tool", onclick: () => this.turned() });
            this.size = make("input", {
                type: "range",
                class: "lycopatch-size",
                min: lycopatch.SIZES.least,
                max: lycopatch.SIZES.most,
                step: 6,
                value: state.size,
                "aria-label": t("Size of the cards"),
                title: t("Size of the cards"),
                oninput: () => gallery.resize({ size: Number(this.size.value) }),
            });
            this.list = this.toggle("list", t("As a list"), () => gallery.resize({ list: !gallery.state.values.list }));
            this.refresh = this.toggle("refresh", t("Look for new files"), () => gallery.rescan());
            this.refresh.removeAttribute("aria-pressed");
            this.targets = this.targetSwitch();
            this.element = make(
                "div",
                { class: "lycopatch-bar", role: "toolbar", "aria-label": t("Search and order") },
                this.folders,
                this.search,
                this.filters,
                this.favourites,
                make("span", { class: "lycopatch-group" }, this.order, this.direction),
                make("span", { class: "lycopatch-group" }, this.size, this.list),
                this.refresh,
                this.targets,
            );
            this.update();
        }

        toggle(name, label, onclick, words = null) {
            const attributes = { type: "button", class: "lycopatch-tool", title: label, "aria-label": label, "aria-pressed": "false", onclick };
            return lycopatch.dom.make("button", attributes, icon(name), words && lycopatch.dom.make("span", { class: "lycopatch-tool-words" }, words));
        }

        // Into which prompt a click goes; nothing where there is only one.
        targetSwitch() {
            const { make } = lycopatch.dom;
            const { prompt } = this.gallery;
            if (prompt.targets.length < 2) return null;
            const buttons = prompt.targets.map((target, index) =>
                make("button", { type: "button", "aria-pressed": "false", onclick: () => this.gallery.useTarget(index) }, target.title),
            );
            const label = t("Clicks go into the prompt of");
            return make("span", { class: "lycopatch-targets", role: "group", "aria-label": label, title: label }, buttons);
        }

        press(event) {
            if (event.key === "Escape" && this.search.value !== "") {
                event.preventDefault();
                this.search.value = "";
                this.typed.stop();
                this.gallery.change({ search: "" });
            } else if (["Enter", "ArrowDown", "Escape"].includes(event.key)) {
                event.preventDefault();
                this.typed.now();
                this.gallery.enterGrid();
            }
            event.stopPropagation();
        }

        onlyFavourites() {
            const { favourite, ...filters } = this.gallery.state.values.filters;
            this.gallery.change({ filters: favourite === true ? filters : { ...filters, favourite: true } });
        }

        ordered() {
            this.gallery.change({ sort: this.order.value });
        }

        turned() {
            const { sort, descending } = this.gallery.state.values;
            if (sort === "random") this.gallery.shuffle();
            else this.gallery.change({ descending: !descending });
        }

        update() {
            const { search, filters, sort, descending, size, list, folders, drawer } = this.gallery.state.values;
            const press = (button, on) => button.setAttribute("aria-pressed", String(on));
            if (document.activeElement !== this.search) this.search.value = search;
            this.order.value = sort;
            this.size.value = size;
            this.size.disabled = list;
            press(this.folders, folders);
            press(this.filters, drawer);
            press(this.favourites, filters.favourite === true);
            press(this.list, list);
            const active = Object.keys(filters).length;
            this.count.textContent = active || "";
            this.count.hidden = active === 0;
            const falling = descending !== lycopatch.ORDERS.find(([order]) => order === sort)[2];
            const label = sort === "random" ? t("Shuffle again") : falling ? t("Descending") : t("Ascending");
            this.direction.replaceChildren(icon(sort === "random" ? "shuffle" : falling ? "down" : "up"));
            this.direction.title = label;
            this.direction.setAttribute("aria-label", label);
            [...(this.targets ? this.targets.children : [])].forEach((button, index) => press(button, index === this.gallery.prompt.index));
        }
    };
})();
