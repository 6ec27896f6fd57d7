// One card of the grid. It is made once and shows one network after another, without adding or removing elements:
// the WebUI runs code of every extension at each such change of the page.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const FITS = { yes: "✓", unknown: "?", no: "✕", damaged: "!" };

    const t = (...values) => lycopatch.words.t(...values);
    const said = (sentence) => lycopatch.words.said(sentence || "");

    // A text that changes without a change of children.
    class Label {
        constructor(element) {
            this.element = element;
            this.text = document.createTextNode("");
            element.append(this.text);
            element.hidden = true;
        }

        show(text) {
            if (this.text.data === text) return;
            this.text.data = text;
            this.element.hidden = text === "";
        }
    }

    function hue(id) {
        let sum = 0;
        for (let position = 0; position < id.length; position += 1) sum = (sum * 31 + id.charCodeAt(position)) % 360;
        return sum;
    }

    // What stands under the title: why it can not be used, else where it is.
    function note(row) {
        if (row.fit === "damaged") return said(row.reason);
        if (!row.name) return said(row.why_no_name);
        const below = (row.folder || "").split("/").slice(1).join(" / ");
        return row.weight && row.weight !== 1 ? [below, `×${row.weight}`].filter(Boolean).join("  ·  ") : below;
    }

    // All of the card in words, for screen readers.
    function spoken(row) {
        const words = [row.title, row.label, row.family_title, row.variant && lycopatch.facets.title("variant", row.variant), said(row.reason)];
        if (!row.name) words.push(said(row.why_no_name));
        if (row.favourite) words.push(t("Favourite"));
        if (row.chosen) words.push(t("In the prompt"));
        return words.filter(Boolean).join(", ");
    }

    lycopatch.Card = class {
        // address(url) → where the picture is, or null
        constructor(id, address) {
            const make = lycopatch.dom.make;
            const part = (name, tag = "span") => new Label(make(tag, { class: `lycopatch-tile-${name}` }));
            this.address = address;
            this.row = null;
            this.seen = "";
            this.url = null; // of the picture that belongs here
            this.initial = part("initial");
            this.picture = make("img", { class: "lycopatch-tile-picture", alt: "", loading: "lazy", decoding: "async", draggable: "false" });
            this.family = part("badge");
            this.label = part("badge");
            this.fit = part("fit");
            this.title = part("title");
            this.note = part("note");
            this.starText = document.createTextNode("☆");
            this.star = make("button", { type: "button", class: "lycopatch-tile-star", tabindex: "-1", "data-act": "favourite" }, this.starText);
            this.info = make("button", { type: "button", class: "lycopatch-tile-info", tabindex: "-1", "data-act": "details", title: t("Details") }, "i");
            this.info.setAttribute("aria-label", t("Details"));
            this.element = make(
                "div",
                { class: "lycopatch-tile", role: "gridcell", id, "data-state": "none" },
                this.picture,
                this.initial.element,
                make("span", { class: "lycopatch-tile-film", "aria-hidden": "true" }, "▶"),
                make("span", { class: "lycopatch-tile-badges" }, this.family.element, this.label.element),
                make("span", { class: "lycopatch-tile-foot" }, this.title.element, this.note.element),
                make("span", { class: "lycopatch-tile-side" }, this.fit.element, this.star, this.info),
                make("span", { class: "lycopatch-tile-tick", "aria-hidden": "true" }, "✓"),
            );
            this.picture.addEventListener("load", () => this.picture.classList.add("lycopatch-there"));
            this.picture.addEventListener("error", () => this.picture.classList.remove("lycopatch-there"));
        }

        // "none": there is no card here; "wait": its network is not known yet.
        empty(state) {
            if (this.row === null && this.element.dataset.state === state) return;
            this.row = null;
            this.seen = "";
            this.hidePicture();
            this.element.dataset.state = state;
            for (const name of ["aria-label", "aria-selected", "title"]) this.element.removeAttribute(name);
        }

        show(row) {
            const seen = `${row.chosen}${row.favourite}`;
            if (this.row === row && this.seen === seen) return;
            const data = this.element.dataset;
            if (!this.row || this.row.id !== row.id) this.element.style.setProperty("--lycopatch-hue", hue(row.id));
            this.row = row;
            this.seen = seen;
            data.state = "ready";
            data.fit = row.fit in FITS ? row.fit : "unknown";
            data.chosen = Boolean(row.chosen);
            data.favourite = Boolean(row.favourite);
            data.preview = (row.preview && row.preview.kind) || "none";
            this.initial.show((Array.from(row.title || row.stem || "?")[0] || "?").toUpperCase());
            this.family.show(row.variant ? lycopatch.facets.title("variant", row.variant) : lycopatch.facets.shortened(row.family_title));
            this.label.show(row.label || "");
            this.fit.show(FITS[data.fit]);
            this.fit.element.title = said(row.reason);
            this.title.show(row.title || row.stem || "");
            this.note.show(note(row));
            this.note.element.title = this.note.text.data;
            this.starText.data = row.favourite ? "★" : "☆";
            this.star.title = row.favourite ? t("Remove from the favourites") : t("Add to the favourites");
            this.star.setAttribute("aria-label", this.star.title);
            this.star.setAttribute("aria-pressed", data.favourite);
            this.title.element.title = row.title || "";
            this.element.setAttribute("aria-selected", data.chosen);
            this.element.setAttribute("aria-label", spoken(row));
            const url = row.preview ? this.address(row.preview.thumb) : null;
            if (url === this.url) return;
            this.hidePicture();
            this.url = url;
        }

        get lacksPicture() {
            return this.url !== null && !this.picture.hasAttribute("src");
        }

        // Separate from show(): while the cards fly by, nobody needs their pictures.
        fetchPicture() {
            this.picture.src = this.url;
        }

        hidePicture() {
            this.url = null;
            if (!this.picture.hasAttribute("src")) return;
            this.picture.removeAttribute("src");
            this.picture.classList.remove("lycopatch-there");
        }
    };
})();
