// A network's details: a drawer at the right, over the page; on a phone, the whole screen.
// Escape closes it, the left and right arrows go to the neighbours in the grid.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);
    let opened = null;

    class Drawer {
        constructor(context, anchor) {
            const { make, iconButton } = lycopatch.dom;
            this.context = context;
            this.anchor = anchor || document.activeElement;
            this.back = iconButton("back", t("Previous network"), () => this.move(-1));
            this.next = iconButton("next", t("Next network"), () => this.move(1));
            this.star = iconButton("star", t("Favourite"), () => this.toggleFavourite(), { "aria-pressed": "false" });
            this.title = make("h2", { id: "lycopatch-sheet-title", tabindex: "-1" });
            this.notice = make("div", { class: "lycopatch-sheet-notice" });
            this.body = make("div", { class: "lycopatch-sheet-body" });
            const close = iconButton("close", t("Close"), () => this.close());
            const head = make("header", {}, this.back, this.next, this.title, this.star, close);
            this.dialog = make(
                "dialog",
                {
                    class: "lycopatch-panel lycopatch-sheet",
                    "aria-labelledby": this.title.id,
                    onkeydown: (event) => this.key(event),
                },
                make("div", { class: "lycopatch-sheet-frame" }, head, this.notice, this.body),
            );
            this.dialog.addEventListener("cancel", (event) => {
                event.preventDefault();
                this.close();
            });
            this.dialog.addEventListener("pointerdown", (event) => {
                if (event.target === this.dialog) this.close(); // beside the drawer
            });
            this.dialog.addEventListener("close", () => this.gone()); // the browser may insist on closing it
            if (!context.gallery?.neighbour) this.back.hidden = this.next.hidden = true;
        }

        open(id) {
            const home =
                this.anchor?.closest?.(".gradio-container") || document.querySelector(".gradio-container") || document.body;
            home.append(this.dialog);
            this.dialog.showModal();
            return this.show(id);
        }

        async show(id) {
            this.leave();
            this.id = id;
            const flight = (this.flight = new AbortController());
            this.notice.replaceChildren();
            this.body.replaceChildren(lycopatch.dom.busy(t("Reading the file…")));
            this.star.disabled = true;
            try {
                const details = await lycopatch.request(
                    this.context,
                    "GET",
                    `networks/${encodeURIComponent(id)}`,
                    null,
                    flight.signal,
                );
                if (flight.signal.aborted) return;
                this.fill(details, flight.signal);
            } catch (error) {
                if (flight.signal.aborted) return;
                this.title.textContent = t("Details");
                this.body.replaceChildren(lycopatch.dom.failure(error.message, () => this.show(id)));
            }
        }

        fill(details, signal) {
            this.details = details;
            this.title.textContent = details.card.title || details.card.stem;
            this.star.disabled = false;
            this.showFavourite();
            const tools = { context: this.context, id: this.id, signal, close: () => this.close() };
            this.editor = panels.words(details, tools);
            this.body.replaceChildren(
                panels.summary(details, tools),
                ...[
                    panels.triggers(details, tools, this.editor),
                    this.editor.element,
                    panels.influence(details, tools),
                    panels.matched(details),
                    panels.training(details),
                    panels.civitai(details),
                    panels.health(details, tools),
                    panels.file(details, tools),
                ].filter(Boolean),
            );
            this.body.scrollTop = 0;
            this.editor.grow();
            if (!this.dialog.contains(document.activeElement) || document.activeElement === this.dialog) this.title.focus();
        }

        // The questions of the network that is shown are no longer wanted.
        leave() {
            this.flight?.abort();
            this.details = null;
            this.editor = null;
        }

        async saved() {
            if (!this.editor || (await this.editor.saved())) return true;
            this.notice.replaceChildren(
                lycopatch.dom.make(
                    "div",
                    { class: "lycopatch-says lycopatch-says-bad", role: "alert" },
                    lycopatch.dom.make("span", {}, t("Your changes are not saved yet.")),
                    lycopatch.dom.button(t("Try again"), () => this.close()),
                    lycopatch.dom.button(t("Discard them"), () => {
                        this.editor.discard();
                        this.close();
                    }),
                ),
            );
            return false;
        }

        async close() {
            if (await this.saved()) this.dialog.close();
        }

        gone() {
            this.leave();
            this.dialog.remove();
            if (opened === this) opened = null;
            if (this.anchor?.isConnected) this.anchor.focus({ preventScroll: true });
        }

        async move(step) {
            if (this.moving || this.back.hidden) return;
            this.moving = true;
            try {
                const id = await this.context.gallery.neighbour(this.id, step);
                if (id && (await this.saved())) await this.show(id);
            } finally {
                this.moving = false;
            }
        }

        key(event) {
            if (event.altKey || event.ctrlKey || event.metaKey || event.isComposing) return;
            event.stopPropagation(); // the grid behind has keys of its own
            const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            if (step === undefined || event.target.closest("input, textarea, select, video")) return;
            event.preventDefault();
            this.move(step);
        }

        showFavourite() {
            const on = Boolean(this.details.card.favourite);
            this.star.setAttribute("aria-pressed", String(on));
            this.star.title = on ? t("Remove from the favourites") : t("Add to the favourites");
        }

        async toggleFavourite() {
            const card = this.details.card;
            try {
                const answer = await lycopatch.request(this.context, "POST", "favourite", { id: card.id, on: !card.favourite });
                card.favourite = answer.favourite;
                this.context.gallery?.mark?.(card.id, { favourite: card.favourite });
                if (this.details?.card === card) this.showFavourite();
            } catch (error) {
                this.notice.replaceChildren(lycopatch.dom.failure(error.message));
            }
        }
    }

    lycopatch.openDetails = function (context, id, anchor) {
        opened?.dialog.close();
        opened = new Drawer(context, anchor);
        opened.open(id);
        return opened;
    };

    // A part of the drawer under a heading of its own.
    panels.section = function (title, ...children) {
        return lycopatch.dom.make("section", {}, lycopatch.dom.make("h3", {}, title), ...children);
    };

    // [[label, value], …] as two columns; empty values are left out.
    panels.rows = function (rows) {
        const { make } = lycopatch.dom;
        const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
        return make(
            "dl",
            { class: "lycopatch-facts" },
            ...shown.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)]),
        );
    };

    // The numbers of a picture, for those who can not see it or want to know exactly.
    panels.table = function (titles, rows) {
        const { make } = lycopatch.dom;
        const head = titles.map((title) => make("th", { scope: "col" }, title));
        const row = ([first, ...values]) =>
            make(
                "tr",
                {},
                make("th", { scope: "row" }, first),
                values.map((value) => make("td", {}, value)),
            );
        const table = make(
            "table",
            { class: "lycopatch-numbers" },
            make("thead", {}, make("tr", {}, head)),
            make("tbody", {}, rows.map(row)),
        );
        return panels.folded(t("As a table"), make("div", { class: "lycopatch-wide" }, table));
    };

    panels.folded = function (title, ...children) {
        return lycopatch.dom.make(
            "details",
            { class: "lycopatch-folded" },
            lycopatch.dom.make("summary", {}, title),
            ...children,
        );
    };
})();
