// What the gallery says about itself: how many, which filters, how far the scan is, what is wrong.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const TOAST_MS = 9000;

    const t = (...values) => lycopatch.words.t(...values);

    lycopatch.Notes = class {
        // gallery: {state, rows, change(changes), clear(), retry()}
        constructor(gallery) {
            const { make } = lycopatch.dom;
            this.gallery = gallery;
            this.chips = make("div", { class: "lycopatch-active-filters", role: "group", "aria-label": t("Filters in use"), hidden: true });
            this.count = make("span", { class: "lycopatch-count", role: "status" });
            this.model = make("span", { class: "lycopatch-model" });
            this.bar = make("progress", { max: 1, value: 0 });
            this.progressText = make("span");
            this.progress = make("span", { class: "lycopatch-progress", hidden: true }, this.bar, this.progressText);
            this.summary = make("summary");
            this.list = make("ul");
            this.problems = make("details", { class: "lycopatch-problems", hidden: true }, this.summary, this.list);
            this.status = make("div", { class: "lycopatch-status" }, this.count, this.model, this.progress, this.problems);
            this.message = make("div", { class: "lycopatch-message", hidden: true });
            this.toast = make("div", { class: "lycopatch-toast", role: "alert", hidden: true, onclick: () => this.hush() });
        }

        close() {
            clearTimeout(this.timer);
        }

        // After an answer; the chips only change with the question.
        update() {
            this.drawStatus();
            this.drawMessage();
        }

        drawChips() {
            const { make } = lycopatch.dom;
            const { filters } = this.gallery.state.values;
            const active = lycopatch.facets.active(filters);
            this.chips.hidden = active.length === 0;
            const chips = active.map(({ text, excluded, remove }) => {
                const title = t("Remove this filter");
                const said = excluded ? t("not {name}", { name: text }) : text;
                const attributes = { type: "button", class: "lycopatch-chip", "data-way": excluded ? -1 : 1, title, "aria-label": `${said}: ${title}` };
                return make("button", { ...attributes, onclick: () => this.gallery.change({ filters: remove }) }, said, make("span", { "aria-hidden": "true" }, "✕"));
            });
            if (active.length) {
                const clear = () => this.gallery.change({ filters: {} });
                chips.push(make("button", { type: "button", class: "lycopatch-chip lycopatch-more", onclick: clear }, t("Clear all filters")));
            }
            this.chips.replaceChildren(...chips);
        }

        drawStatus() {
            const { answer, busy } = this.gallery.rows;
            if (!answer) return;
            const { found, total, loaded, problems } = answer;
            const text = found === total ? t("{n} network|{n} networks", { n: total }) : t("{found} of {total}", { found, total });
            if (!busy && this.count.textContent !== text) this.count.textContent = text;
            const model = loaded ? t("Model: {title}", { title: loaded.title || loaded.family }) : t("No model is loaded yet");
            if (this.model.textContent !== model) this.model.textContent = model;
            const sentences = (problems || []).map((sentence) => lycopatch.words.said(sentence));
            this.problems.hidden = sentences.length === 0;
            const told = sentences.join("\n");
            if (told === this.told) return;
            this.told = told;
            this.summary.textContent = t("{n} problem|{n} problems", { n: sentences.length });
            this.list.replaceChildren(...sentences.map((sentence) => lycopatch.dom.make("li", {}, sentence)));
        }

        scanned({ running, done, total }) {
            this.progress.hidden = !running;
            if (!running) return;
            if (total > 0) this.bar.value = Math.min(1, done / total);
            else this.bar.removeAttribute("value");
            this.progressText.textContent = total > 0 ? t("Reading files: {done} of {total}", { done, total }) : t("Looking for files …");
        }

        // In place of the cards: why there are none.
        drawMessage() {
            const { rows } = this.gallery;
            const { failure, answer } = rows;
            const empty = answer && answer.found === 0 && !rows.busy;
            if (failure) this.explain(t("The networks cannot be shown."), failure.message, t("Try again"), () => this.gallery.retry());
            else if (empty && answer.total > 0) {
                this.explain(t("Nothing fits."), t("No network has all of these words and passes these filters."), t("Clear search and filters"), () => this.gallery.clear());
            } else if (empty && !(answer.scanning && answer.scanning.running)) {
                const where = t("Put .safetensors files into the folder models/Lora or models/LyCORIS, then let this page look again.");
                this.explain(t("There are no networks yet."), where, t("Look for new files"), () => this.gallery.rescan());
            } else this.message.hidden = true;
        }

        explain(title, sentence, action, onclick) {
            const { make } = lycopatch.dom;
            const key = `${title}\n${sentence}`;
            if (!this.message.hidden && this.explained === key) return;
            this.explained = key;
            this.message.hidden = false;
            this.message.replaceChildren(make("h3", {}, title), make("p", {}, sentence), make("button", { type: "button", class: "lycopatch-button", onclick }, action));
        }

        // A sentence about something that was clicked and did not work.
        tell(sentence) {
            clearTimeout(this.timer);
            this.toast.textContent = sentence;
            this.toast.hidden = false;
            this.timer = setTimeout(() => this.hush(), TOAST_MS);
        }

        hush() {
            clearTimeout(this.timer);
            this.toast.hidden = true;
        }
    };
})();
