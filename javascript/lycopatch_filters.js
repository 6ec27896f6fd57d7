// The drawer of filters: chips that a click takes through "only these", "not these" and "no matter"; two ranges.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const SECTIONS = ["kind", "family", "variant", "fit", "problem", "tag"];
    const FEW = { tag: 30 }; // chips before "more"
    const TYPING_MS = 400;

    const t = (...values) => lycopatch.words.t(...values);

    // −1 excluded, 0 no matter, 1 included
    function chip(title, count, way, onclick) {
        const { make } = lycopatch.dom;
        const spoken = way > 0 ? t("{title}: only these", { title }) : way < 0 ? t("{title}: not these", { title }) : title;
        const hint = way > 0 ? t("Click: not these") : way < 0 ? t("Click: no matter") : t("Click: only these");
        return make(
            "button",
            { type: "button", class: "lycopatch-chip", "data-way": way, "aria-pressed": way > 0 ? "true" : way < 0 ? "mixed" : "false", "aria-label": spoken, title: hint, onclick },
            way < 0 ? "− " : way > 0 ? "✓ " : null,
            title,
            count === null ? null : make("small", {}, lycopatch.words.number(count)),
        );
    }

    lycopatch.Filters = class {
        constructor(gallery) {
            this.gallery = gallery;
            this.facets = {};
            this.wide = new Set(); // sections that show all their chips
            this.found = ""; // what the box of tags looks for
            this.sections = new Map(SECTIONS.map((name) => [name, this.section(name)]));
            this.mine = this.section("mine", t("Mine"));
            this.ranges = new Map(lycopatch.RANGES.map((name) => [name, this.range(name)]));
            this.element = lycopatch.dom.make(
                "div",
                { class: "lycopatch-filters", role: "group", "aria-label": t("Filters") },
                [...this.sections.values()].map((section) => section.element),
                [...this.ranges.values()].map((section) => section.element),
                this.mine.element,
            );
        }

        section(name, title = lycopatch.facets.name(name)) {
            const { make } = lycopatch.dom;
            const chips = make("div", { class: "lycopatch-chips" });
            const box = name === "tag" ? this.tagBox() : null;
            const element = make("div", { class: `lycopatch-section lycopatch-section-${name}`, role: "group", "aria-label": title }, make("h4", {}, title), box, chips);
            return { element, chips };
        }

        // Narrows the chips; Enter takes the text itself, for a tag that is not among the most frequent.
        tagBox() {
            const look = lycopatch.dom.later(TYPING_MS / 4, () => this.draw());
            return lycopatch.dom.make("input", {
                type: "search",
                class: "lycopatch-search",
                placeholder: t("Find a tag …"),
                "aria-label": t("Find a tag …"),
                oninput: (event) => {
                    this.found = event.target.value.trim().toLowerCase();
                    look();
                },
                onkeydown: (event) => {
                    event.stopPropagation();
                    if (event.key !== "Enter" || !this.found) return;
                    event.preventDefault();
                    const tag = this.found;
                    this.found = event.target.value = "";
                    this.gallery.change({ filters: lycopatch.facets.cycled(this.gallery.state.values.filters, "tag", tag) });
                },
            });
        }

        range(name) {
            const { make } = lycopatch.dom;
            const title = lycopatch.facets.name(name);
            const take = lycopatch.dom.later(TYPING_MS, () => this.ranged(name));
            const box = (label) =>
                make("input", { type: "number", class: "lycopatch-bound", min: 0, step: "any", "aria-label": `${title}: ${label}`, oninput: take, onkeydown: (event) => event.stopPropagation() });
            const least = box(t("at least"));
            const most = box(t("at most"));
            const element = make("div", { class: "lycopatch-section", role: "group", "aria-label": title }, make("h4", {}, title), make("div", { class: "lycopatch-range" }, least, "–", most));
            return { element, least, most };
        }

        ranged(name) {
            const { least, most } = this.ranges.get(name);
            const unit = lycopatch.facets.unit(name);
            const number = (box) => (box.value === "" ? undefined : Math.round(Number(box.value) * unit));
            const range = { min: number(least), max: number(most) };
            this.gallery.change({ filters: lycopatch.cleanFilters({ ...this.gallery.state.values.filters, [name]: range }) });
        }

        show(facets) {
            this.facets = facets;
            this.draw();
        }

        draw() {
            const { filters, drawer } = this.gallery.state.values;
            this.element.hidden = !drawer;
            if (!drawer) return;
            for (const name of SECTIONS) this.drawSection(name, filters);
            for (const name of lycopatch.RANGES) this.drawRange(name, filters[name] || {});
            const flags = lycopatch.FLAGS.map((name) => {
                const way = filters[name] === true ? 1 : filters[name] === false ? -1 : 0;
                return chip(lycopatch.facets.name(name), null, way, () => this.flag(name, way));
            });
            this.redraw(this.mine.chips, flags);
        }

        flag(name, way) {
            const rest = lycopatch.facets.dropped(this.gallery.state.values.filters, name);
            this.gallery.change({ filters: way < 0 ? rest : { ...rest, [name]: way === 0 } });
        }

        drawSection(name, filters) {
            const { include = [], exclude = [] } = filters[name] || {};
            const counts = new Map((this.facets[name] || []).map(([value, count]) => [value, count]));
            for (const value of [...exclude, ...include]) if (!counts.has(value)) counts.set(value, 0);
            const fits = ([value]) => name !== "tag" || value.includes(this.found) || include.includes(value) || exclude.includes(value);
            const all = [...counts].filter(fits);
            const few = this.wide.has(name) ? all.length : FEW[name] || 14;
            const chosen = ([value]) => include.includes(value) || exclude.includes(value);
            const shown = all.filter((entry, position) => position < few || chosen(entry));
            const chips = shown.map(([value, count]) =>
                chip(lycopatch.facets.title(name, value), count, include.includes(value) ? 1 : exclude.includes(value) ? -1 : 0, () =>
                    this.gallery.change({ filters: lycopatch.facets.cycled(this.gallery.state.values.filters, name, value) }),
                ),
            );
            if (shown.length < all.length) chips.push(this.more(name, all.length - shown.length));
            const section = this.sections.get(name);
            section.element.hidden = counts.size === 0;
            this.redraw(section.chips, chips);
        }

        more(name, left) {
            const open = () => {
                this.wide.add(name);
                this.draw();
            };
            return lycopatch.dom.make("button", { type: "button", class: "lycopatch-chip lycopatch-more", onclick: open }, t("{count} more", { count: left }));
        }

        drawRange(name, range) {
            const { least, most } = this.ranges.get(name);
            const unit = lycopatch.facets.unit(name);
            const [from, to] = this.facets[name] || [];
            const shown = (value) => (value === undefined || value === null ? "" : String(Math.round((value / unit) * 100) / 100));
            least.placeholder = shown(from);
            most.placeholder = shown(to);
            if (document.activeElement !== least) least.value = shown(range.min);
            if (document.activeElement !== most) most.value = shown(range.max);
        }

        // New chips, with the focus on the one that had it.
        redraw(holder, chips) {
            const position = [...holder.children].indexOf(document.activeElement);
            holder.replaceChildren(...chips);
            if (position >= 0 && chips[position]) chips[position].focus({ preventScroll: true });
        }
    };
})();
