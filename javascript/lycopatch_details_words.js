// The user's own words about a network, edited in place and saved at once.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);
    const SAVE_MS = 700; // between the last key and the file

    // Sends changes one after the other; what could not be saved stays and goes along with the next try.
    class Saver {
        constructor(send, told) {
            this.send = send;
            this.told = told;
            this.waiting = {};
            this.flight = null;
            this.soon = lycopatch.dom.later(SAVE_MS, () => this.save());
        }

        get clean() {
            return Object.keys(this.waiting).length === 0;
        }

        set(field, value) {
            this.waiting[field] = value;
            this.told("waiting");
            this.soon();
        }

        // True when everything is saved.
        async save() {
            this.soon.stop();
            while (this.flight) await this.flight;
            if (this.clean) return true;
            this.flight = this.sendOnce();
            const done = await this.flight;
            return done && (this.clean || this.save());
        }

        async sendOnce() {
            const changes = this.waiting;
            this.waiting = {};
            this.told("saving");
            try {
                this.told("saved", await this.send(changes));
                return true;
            } catch (error) {
                this.waiting = { ...changes, ...this.waiting };
                this.told("failed", error);
                return false;
            } finally {
                this.flight = null;
            }
        }

        discard() {
            this.soon.stop();
            this.waiting = {};
        }
    }

    // {element, set(field, value), saved(), discard(), grow()}
    panels.words = function (details, tools) {
        const { make, button } = lycopatch.dom;
        const words = details.words || {};
        const mark = make("span", { class: "lycopatch-said", role: "status" });
        const trouble = make("div");
        const boxes = [];

        const saver = new Saver(
            async (changes) => {
                const answer = await lycopatch.request(tools.context, "POST", "words", { id: tools.id, ...changes });
                tools.context.gallery?.mark?.(tools.id, answer.details?.card || {});
                return answer;
            },
            (state, answer) => {
                mark.textContent = { waiting: "", saving: t("Saving…"), saved: t("Saved"), failed: "" }[state];
                if (state === "saved")
                    trouble.replaceChildren(
                        ...(answer.kept ? [make("p", { class: "lycopatch-says" }, lycopatch.words.said(answer.kept))] : []),
                    );
                if (state === "failed")
                    trouble.replaceChildren(
                        lycopatch.dom.failure(t("Not saved: {reason}", { reason: answer.message }), () => saver.save()),
                    );
            },
        );

        function text(field, label, hint) {
            const box = make("textarea", {
                rows: "1",
                spellcheck: "false",
                value: words[field] || "",
                oninput: () => {
                    grown(box);
                    saver.set(field, box.value);
                },
                onblur: () => saver.save(),
            });
            boxes.push(box);
            return make("label", { class: "lycopatch-field" }, make("span", {}, label), box, hint && make("small", {}, hint));
        }

        const element = panels.section(
            t("Your words"),
            mark,
            words.problem && make("p", { class: "lycopatch-says" }, lycopatch.words.said(words.problem)),
            trouble,
            text("activation_text", t("Activation text"), t("Goes into the prompt together with the tag.")),
            text("negative_text", t("Negative text"), t("Goes into the negative prompt.")),
            make("div", { class: "lycopatch-field-row" }, weight(words, saver), range(words, saver)),
            text("description", t("Description")),
            text("notes", t("Notes")),
        );
        return {
            element,
            set: (field, value) => {
                saver.set(field, value);
                return saver.save();
            },
            saved: () => saver.save(),
            discard: () => saver.discard(),
            grow: () => boxes.forEach(grown),
        };
    };

    // As high as its text.
    function grown(box) {
        box.style.height = "auto";
        box.style.height = `${box.scrollHeight + 2}px`;
    }

    function numberBox(label, value, onchange) {
        return lycopatch.dom.make("input", {
            type: "number",
            step: "0.05",
            "aria-label": label,
            value: value ?? "",
            oninput: onchange,
        });
    }

    const valueOf = (box) => (box.value === "" || !Number.isFinite(box.valueAsNumber) ? null : box.valueAsNumber);

    function weight(words, saver) {
        const { make } = lycopatch.dom;
        const box = numberBox(t("Preferred weight"), words.preferred_weight || null, () =>
            saver.set("preferred_weight", valueOf(box) ?? 0),
        );
        box.addEventListener("blur", () => saver.save());
        return make("label", { class: "lycopatch-field" }, make("span", {}, t("Preferred weight")), box);
    }

    // Both ends or none; one alone is not saved yet, and says why.
    function range(words, saver) {
        const { make } = lycopatch.dom;
        const [low, high] = words.weight_range || [null, null];
        const hint = make("small", { role: "status" });
        const boxes = [numberBox(t("Lowest weight"), low, changed), numberBox(t("Highest weight"), high, changed)];

        function changed() {
            const [from, to] = boxes.map(valueOf);
            const half = (from === null) !== (to === null);
            const twisted = !half && from !== null && from >= to;
            hint.textContent = half ? t("Both ends are needed.") : twisted ? t("The first must be the smaller one.") : "";
            if (!half && !twisted) saver.set("weight_range", from === null ? null : [from, to]);
        }

        boxes.forEach((box) => box.addEventListener("blur", () => saver.save()));
        return make(
            "div",
            { class: "lycopatch-field", role: "group", "aria-label": t("Range of the weight slider") },
            make("span", {}, t("Range of the weight slider")),
            make("span", { class: "lycopatch-span" }, boxes[0], "–", boxes[1]),
            hint,
        );
    }
})();
