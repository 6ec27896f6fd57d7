// Before you press Generate: what each tag of the prompt would do, which networks get in each other's way, what it costs.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);
    const said = (text) => lycopatch.words.said(text);
    const LOOK_MS = 900; // between the last key in the prompt and the question
    const TELLING = 0.2; // a cosine that one should look at
    const AUTO = "lycopatch.dryrun.auto";

    class DryRun {
        constructor(context, element) {
            const { make, button, later, recall } = lycopatch.dom;
            this.context = context;
            this.result = make("div", { class: "lycopatch-dry-result", "aria-live": "polite" });
            this.auto = make("input", { type: "checkbox", onchange: () => this.chooseAuto() });
            this.auto.checked = recall(localStorage, AUTO, false) === true;
            this.check = button(t("Check the prompt"), () => this.ask());
            this.fold = lycopatch.dom.iconButton("close", t("Close"), () => this.clear(), { hidden: true });
            this.element = make(
                "section",
                { class: "lycopatch-panel lycopatch-dry", "aria-label": t("Before you press Generate") },
                make(
                    "div",
                    { class: "lycopatch-dry-head" },
                    make("h3", {}, t("Before you press Generate")),
                    make("label", {}, this.auto, t("at every change")),
                    this.check,
                    this.fold,
                ),
                this.result,
            );
            element.append(this.element);
            this.soon = later(LOOK_MS, () => this.ask());
            this.end = context.onPrompt(() => this.changed());
            this.blind = lycopatch.dom.onSight(this.element, () => this.changed());
            this.changed();
        }

        destroy() {
            this.end?.();
            this.blind();
            this.soon.stop();
            this.flight?.abort();
            this.element.remove();
        }

        clear() {
            this.flight?.abort();
            this.shown = undefined;
            this.fold.hidden = true;
            this.result.replaceChildren();
            this.check.focus();
        }

        chooseAuto() {
            lycopatch.dom.remember(localStorage, AUTO, this.auto.checked);
            if (this.auto.checked) this.ask();
        }

        // Without anything that looks like a tag there is nothing to check, and no room is taken.
        changed() {
            const prompt = this.context.promptOf();
            this.element.hidden = !prompt.includes("<");
            if (prompt === this.shown) return;
            this.element.classList.toggle("lycopatch-stale", this.shown !== undefined);
            if (this.auto.checked && lycopatch.dom.inSight(this.element)) this.soon();
        }

        async ask() {
            this.soon.stop();
            this.flight?.abort();
            const flight = (this.flight = new AbortController());
            const prompt = this.context.promptOf();
            this.check.disabled = true;
            if (this.shown === undefined)
                this.result.replaceChildren(lycopatch.dom.busy(t("Looking at the networks…"), () => flight.abort()));
            try {
                const answer = await lycopatch.request(
                    this.context,
                    "POST",
                    "dry-run",
                    { prompt, negative: this.context.negativeOf?.() ?? "" },
                    flight.signal,
                );
                if (flight.signal.aborted) return;
                this.shown = prompt;
                this.element.classList.toggle("lycopatch-stale", this.context.promptOf() !== prompt);
                this.result.replaceChildren(...report(answer, this.context));
                this.fold.hidden = false;
            } catch (error) {
                if (flight !== this.flight) return; // a newer question is under way
                this.result.replaceChildren(
                    ...(flight.signal.aborted ? [] : [lycopatch.dom.failure(error.message, () => this.ask())]),
                );
                this.shown = undefined;
            } finally {
                if (flight === this.flight) this.check.disabled = false;
            }
        }
    }

    lycopatch.mountDryRun = (context, element) => new DryRun(context, element);

    function report(answer, context) {
        const { make } = lycopatch.dom;
        const tags = answer.tags || [];
        return [
            verdict(answer),
            ...(answer.issues || []).map((issue) => make("p", { class: "lycopatch-says" }, said(issue))),
            tags.length > 0 &&
                make(
                    "ol",
                    { class: "lycopatch-dry-tags" },
                    tags.map((tag) => card(tag, context)),
                ),
            ...(answer.conflicts || []).map(conflict),
            tags.length > 0 && estimate(answer),
        ].filter(Boolean);
    }

    const states = { good: 0, part: 1, bad: 2 };

    // Without a model, layers_applied is null: what there is to say is that the file was found.
    function stateOf(tag) {
        if (tag.failed || !tag.file || tag.layers_applied === 0) return "bad";
        const lacking = tag.layers_applied !== null && tag.layers_applied < tag.layers_total;
        return tag.issues?.length > 0 || lacking ? "part" : "good";
    }

    function verdict(answer) {
        const tags = answer.tags || [];
        const worst = tags.map(stateOf).reduce((a, b) => (states[b] > states[a] ? b : a), "good");
        const wrong = tags.filter((tag) => stateOf(tag) === "bad").length;
        const partly = tags.filter((tag) => stateOf(tag) === "part").length;
        const sentence =
            tags.length === 0
                ? t("No network is in the prompt, so nothing will be changed.")
                : wrong > 0
                  ? t("{n} network will have no effect.|{n} networks will have no effect.", { n: wrong })
                  : partly > 0
                    ? t("{n} network will work in part, or not as written.|{n} networks will work in part, or not as written.", {
                          n: partly,
                      })
                    : answer.model
                      ? t("The network will work fully.|All {n} networks will work fully.", { n: tags.length })
                      : t("The network was found.|All {n} networks were found.", { n: tags.length });
        return lycopatch.dom.make("p", { class: `lycopatch-says lycopatch-says-${tags.length ? worst : "quiet"}` }, sentence);
    }

    function card(tag, context) {
        const { make } = lycopatch.dom;
        const title = tag.id
            ? make(
                  "button",
                  {
                      type: "button",
                      class: "lycopatch-stack-name",
                      title: tag.file,
                      onclick: (event) => lycopatch.openDetails(context, tag.id, event.currentTarget),
                  },
                  tag.name,
              )
            : make("b", {}, tag.name || tag.tag);
        const total = tag.layers_total;
        return make(
            "li",
            { class: `lycopatch-dry-tag lycopatch-dry-${stateOf(tag)}` },
            make(
                "div",
                { class: "lycopatch-dry-title" },
                make("code", {}, tag.tag),
                make("span", { "aria-hidden": "true" }, "→"),
                title,
                tag.label && make("span", { class: "lycopatch-mark" }, tag.label),
                tag.family_title && make("span", { class: "lycopatch-mark" }, tag.family_title),
            ),
            make(
                "p",
                { class: "lycopatch-quiet" },
                [
                    tag.file,
                    total > 0 &&
                        tag.layers_applied !== null &&
                        t("{applied} of {n} layer|{applied} of {n} layers", { applied: tag.layers_applied, n: total }),
                ]
                    .filter(Boolean)
                    .join(" · "),
            ),
            tag.keys && Object.values(tag.keys).some((count) => count > 0) && panels.keysBar(tag.keys),
            reasons(tag),
        );
    }

    function reasons(tag) {
        const { make } = lycopatch.dom;
        const failed = typeof tag.failed === "string" ? [tag.failed] : [];
        const sentences = [...new Set([...failed, ...(tag.issues || [])])].map((text) => make("li", {}, said(text)));
        const groups = (tag.reasons || []).map(({ reason, count, example }) =>
            make(
                "li",
                { title: example },
                t("{n} key: {reason}|{n} keys: {reason}", { n: count, reason: said(reason) }),
                example && make("code", {}, example),
            ),
        );
        const all = [...sentences, ...groups];
        return all.length > 0 ? make("ul", { class: "lycopatch-reasons" }, all) : null;
    }

    const signed = (number) =>
        new Intl.NumberFormat(lycopatch.words.language(), { signDisplay: "exceptZero", maximumFractionDigits: 2 }).format(
            number || 0,
        );

    // Two networks on the same blocks: below the line they work against each other, above it together. Where they have
    // little to do with each other there is no picture at once.
    function conflict({ a, b, blocks = [], cosine, verdict: sentence }) {
        const { make } = lycopatch.dom;
        const title = [
            make("b", {}, a),
            " × ",
            make("b", {}, b),
            " ",
            make("span", { class: "lycopatch-mark" }, `cos ${signed(cosine)}`),
        ];
        const picture = [
            make("p", {}, said(sentence)),
            make("div", { class: "lycopatch-cosines", "aria-hidden": "true" }, blocks.map(column)),
            make(
                "div",
                { class: "lycopatch-cosine-key lycopatch-quiet" },
                make("i", { class: "lycopatch-together" }),
                t("together"),
                make("i", { class: "lycopatch-against" }),
                t("against each other"),
            ),
            blocks.length > 0 && panels.table([t("Block"), t("Cosine"), t("Share of the change")], blocks.map(cells)),
        ];
        const telling = blocks.some((block) => Math.abs(block.cosine) >= TELLING);
        if (telling) return make("figure", { class: "lycopatch-conflict" }, make("figcaption", {}, title), picture);
        return make("div", { class: "lycopatch-conflict" }, panels.folded(make("span", {}, title), picture));
    }

    function column({ block, cosine, share }) {
        const { make } = lycopatch.dom;
        const height = `${(Math.min(1, Math.abs(cosine || 0)) * 50).toFixed(1)}%`;
        const side = cosine < 0 ? "against" : "together";
        const title = `${block}: ${signed(cosine)} (${shareOf(share)})`;
        return make(
            "span",
            { class: "lycopatch-cosine", title },
            make("i", { class: `lycopatch-${side}`, style: `height: ${height}` }),
        );
    }

    const shareOf = (share) => (Number.isFinite(share) ? lycopatch.words.percent(share) : "–");
    const cells = ({ block, cosine, share }) => [block, Number.isFinite(cosine) ? signed(cosine) : "–", shareOf(share)];

    function estimate({ estimate: cost, model }) {
        if (!cost) return null;
        const { seconds, size, number } = lycopatch.words;
        return panels.folded(
            cost.sure
                ? t("Ready in {time}", { time: seconds(cost.seconds) })
                : t("Ready in about {time}", { time: seconds(cost.seconds) }),
            panels.rows([
                [t("Model"), model],
                [t("Memory for the original weights"), size(cost.bytes_originals)],
                [t("To be read from disk"), size(cost.bytes_read)],
                [t("Weights to be changed"), number(cost.tensors)],
                [t("Weights to be given back"), cost.restored ? number(cost.restored) : null],
            ]),
        );
    }
})();
