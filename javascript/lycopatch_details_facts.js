// What a file says about itself, and what became of its keys: the parts of the details that are only read.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);
    const said = (text) => lycopatch.words.said(text);
    const OUTCOMES = ["applied", "unmatched", "unknown", "skipped", "embedding"];
    const LONGEST = 4000; // characters of one value of the metadata

    const outcomeTitle = (outcome) =>
        ({
            applied: t("applied"),
            unmatched: t("not in this model"),
            unknown: t("not understood"),
            skipped: t("left out"),
            embedding: t("textual inversion"),
        })[outcome] || outcome;

    // One bar of all keys, a piece for each outcome, with its legend. Also used before a picture is made.
    panels.keysBar = function (counts) {
        const { make } = lycopatch.dom;
        const parts = OUTCOMES.filter((outcome) => counts[outcome] > 0);
        const piece = (outcome) =>
            make("span", { class: `lycopatch-outcome-${outcome}`, style: `flex-grow: ${counts[outcome]}` });
        const legend = (outcome) =>
            make(
                "span",
                {},
                make("i", { class: `lycopatch-outcome-${outcome}`, "aria-hidden": "true" }),
                `${lycopatch.words.number(counts[outcome])} ${outcomeTitle(outcome)}`,
            );
        return make(
            "div",
            { class: "lycopatch-keys" },
            make("div", { class: "lycopatch-keys-bar", "aria-hidden": "true" }, parts.map(piece)),
            make("div", { class: "lycopatch-keys-legend" }, parts.map(legend)),
        );
    };

    panels.matched = function (details) {
        const { make } = lycopatch.dom;
        if (!details.what) return null; // a file that could not be read has no keys to compare
        const matched = details.matched;
        if (!matched)
            return panels.section(
                t("Keys"),
                make("p", { class: "lycopatch-quiet" }, t("No model is loaded, so there is nothing to compare the keys with.")),
            );
        const groups = matched.groups.filter((group) => group.outcome !== "applied");
        return panels.section(
            t("Keys"),
            make(
                "p",
                { class: "lycopatch-quiet" },
                matched.model
                    ? t("Against the model that is loaded now: {model}", { model: said(matched.model) })
                    : t("Against the model that is loaded now"),
            ),
            panels.keysBar(matched),
            groups.length === 0
                ? make("p", {}, t("Every key of the file has its place in this model."))
                : make("ul", { class: "lycopatch-reasons" }, groups.map(group)),
        );
    };

    function group({ outcome, reason, count, examples }) {
        const { make } = lycopatch.dom;
        return make(
            "li",
            {},
            make("i", { class: `lycopatch-outcome-${outcome}`, "aria-hidden": "true" }),
            make("span", {}, t("{n} key: {reason}|{n} keys: {reason}", { n: count, reason: said(reason) })),
            examples?.length > 0 &&
                panels.folded(
                    t("For example"),
                    make(
                        "ul",
                        { class: "lycopatch-examples" },
                        examples.map((key) => make("li", {}, make("code", {}, key))),
                    ),
                ),
        );
    }

    panels.training = function (details) {
        const rows = details.training?.rows || [];
        const title = t("How it was trained");
        if (rows.length > 0) return panels.section(title, panels.rows(rows.map(([label, value]) => [said(label), value])));
        if (!details.what) return null;
        return panels.section(
            title,
            lycopatch.dom.make("p", { class: "lycopatch-quiet" }, t("The file says nothing about its training.")),
        );
    };

    panels.civitai = function (details) {
        const { make } = lycopatch.dom;
        const facts = details.civitai;
        if (!facts) return null;
        const link = /^https:\/\/civitai\.com\//.test(facts.url || "")
            ? make("a", { href: facts.url, target: "_blank", rel: "noopener noreferrer" }, t("Open the page at civitai.com"))
            : null;
        return panels.section(
            t("At civitai"),
            panels.rows([
                [t("Title"), facts.title],
                [t("Version"), facts.version],
                [t("Creator"), facts.creator],
                [t("Base model"), facts.base_model],
                [t("Page"), link],
                [t("Marked as"), facts.nsfw ? "NSFW" : null],
                [t("Read from"), facts.source],
            ]),
            facts.description_text &&
                panels.folded(t("Description"), make("p", { class: "lycopatch-prose" }, facts.description_text)),
        );
    };

    panels.health = function (details, tools) {
        const { make, button } = lycopatch.dom;
        if (!details.what) return null;
        const result = make("div", { "aria-live": "polite" });
        const check = button(t("Check the numbers"), ask);

        async function ask() {
            const flight = new AbortController();
            const stop = () => flight.abort();
            tools.signal.addEventListener("abort", stop);
            check.hidden = true;
            result.replaceChildren(lycopatch.dom.busy(t("Reading every number of the file…"), stop));
            try {
                const found = await lycopatch.request(
                    tools.context,
                    "GET",
                    `health/${encodeURIComponent(tools.id)}`,
                    null,
                    flight.signal,
                );
                result.replaceChildren(...verdict(found));
            } catch (error) {
                check.hidden = false;
                result.replaceChildren(...(flight.signal.aborted ? [] : [lycopatch.dom.failure(error.message)]));
            } finally {
                tools.signal.removeEventListener("abort", stop);
            }
        }

        return panels.section(
            t("Health"),
            make(
                "p",
                { class: "lycopatch-quiet" },
                t("Looks for numbers that are none, layers without effect and layers that burn the picture."),
            ),
            check,
            result,
        );
    };

    function verdict(found) {
        const { make } = lycopatch.dom;
        const issues = found.issues || [];
        const faults = issues.filter((issue) => issue.severity === "fault").length;
        const sentence =
            faults > 0
                ? t("{n} fault was found.|{n} faults were found.", { n: faults })
                : found.status === "ok"
                  ? t("All numbers are fine.")
                  : said(found.error || found.status);
        return [
            make(
                "p",
                { class: `lycopatch-says lycopatch-says-${faults > 0 || found.status !== "ok" ? "bad" : "good"}` },
                sentence,
            ),
            issues.length > 0 &&
                make(
                    "ul",
                    { class: "lycopatch-reasons" },
                    issues.map((issue) => make("li", {}, said(issue.message))),
                ),
        ].filter(Boolean);
    }

    panels.file = function (details, tools) {
        const { make } = lycopatch.dom;
        const { file = {}, what, card } = details;
        const hashes = file.hashes || {};
        const code = (text) => (text ? make("code", {}, text) : null);
        const metadata = Object.entries(details.metadata || {});
        return panels.section(
            t("File"),
            panels.rows([
                [t("Path"), code(file.path_below)],
                [t("Size"), Number.isFinite(file.size ?? card.size) ? lycopatch.words.size(file.size ?? card.size) : null],
                [t("Modified"), when(file.modified ?? card.modified)],
                [t("Algorithm"), counted(what?.algorithms)],
                [t("Rank"), counted(what?.ranks)],
                [t("Acts on"), counted(what?.components)],
                [t("Also"), counted(what?.modifiers)],
                [t("Layer names as written by"), listed(what?.dialects)],
                [t("Stored as"), counted(file.dtypes)],
                [t("Keys"), Number.isFinite(file.keys) ? lycopatch.words.number(file.keys) : null],
                [t("Textual inversions"), listed((details.embeddings || []).map((each) => each.name ?? each))],
                ["SHA256", code(hashes.sha256)],
                ["AutoV3", code(hashes.autov3)],
                ["AutoV1", code(hashes.autov1)],
            ]),
            metadata.length > 0 &&
                panels.folded(
                    t("Metadata ({n} entry)|Metadata ({n} entries)", { n: metadata.length }),
                    panels.rows(metadata.map(([key, value]) => [key, metadatum(value)])),
                ),
        );
    };

    const when = (modified) => (Number.isFinite(modified) ? lycopatch.words.date(modified) : modified);
    const listed = (values) => (values?.length ? values.join(", ") : null);

    // {lora: 192, lokr: 8} → "lora (192), lokr (8)"; a list as it is.
    function counted(counts) {
        if (!counts || Array.isArray(counts)) return listed(counts);
        return listed(
            Object.entries(counts).map(([name, count]) =>
                Number.isFinite(count) ? `${name} (${lycopatch.words.number(count)})` : name,
            ),
        );
    }

    function metadatum(value) {
        const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
        return lycopatch.dom.make("pre", {}, text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);
    }
})();
