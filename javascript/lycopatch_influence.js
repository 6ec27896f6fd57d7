// Where a network acts: a bar for each block of the model, as high as the change is against what is changed.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);
    const SMALL = 64 << 20; // bytes; larger files are measured when somebody asks for it
    const PARTS = { unet: "U-Net", te1: "TE 1", te2: "TE 2", te3: "TE 3" };

    panels.influence = function (details, tools) {
        const { make } = lycopatch.dom;
        if (!details.what || details.card.kind === "norm") return null;
        const result = make("div", { "aria-live": "polite" });
        const ask = () => measure(result, tools, offer);
        const offer = () => result.replaceChildren(lycopatch.dom.button(t("Measure it"), ask));
        if ((details.file?.size ?? details.card.size) <= SMALL) ask();
        else offer();
        return panels.section(t("Where it acts"), result);
    };

    async function measure(result, tools, offer) {
        const flight = new AbortController();
        const stop = () => flight.abort();
        tools.signal.addEventListener("abort", stop);
        result.replaceChildren(lycopatch.dom.busy(t("Measuring the change of every block…"), stop));
        try {
            const measured = await lycopatch.request(
                tools.context,
                "GET",
                `influence/${encodeURIComponent(tools.id)}`,
                null,
                flight.signal,
            );
            result.replaceChildren(...picture(measured));
        } catch (error) {
            if (flight.signal.aborted) offer();
            else result.replaceChildren(lycopatch.dom.failure(error.message, () => measure(result, tools, offer)));
        } finally {
            tools.signal.removeEventListener("abort", stop);
        }
    }

    function picture(measured) {
        const { make } = lycopatch.dom;
        const blocks = measured.blocks || [];
        if (blocks.length === 0)
            return [make("p", { class: "lycopatch-quiet" }, t("None of its layers can be measured.")), ...unmeasured(measured)];
        const scale = scaleOf(blocks);
        const charts = groups(blocks).map(([part, members]) => chart(part, members, scale));
        return [
            make(
                "p",
                { class: "lycopatch-quiet" },
                scale.relative
                    ? t("How far each block is moved, as a share of its own weights (‖ΔW‖ / ‖W‖, at weight 1).")
                    : t(
                          "The size of the change in each block (‖ΔW‖, at weight 1); without a model that it fits there is nothing to compare it with.",
                      ),
            ),
            totals(measured.parts || {}, scale),
            ...charts,
            make(
                "p",
                { class: "lycopatch-quiet lycopatch-key" },
                make("i", { "aria-hidden": "true" }),
                t(
                    "The line in a bar is the largest change of one direction (spectral norm): near the top, all of the change is one direction.",
                ),
            ),
            table(blocks),
            ...unmeasured(measured),
            make("p", { class: "lycopatch-quiet" }, footnote(measured)),
        ];
    }

    function footnote({ against, seconds }) {
        const took = Number.isFinite(seconds) ? t("Measured in {time}.", { time: lycopatch.words.seconds(seconds) }) : "";
        return [against && t("Compared with {model}.", { model: lycopatch.words.said(against) }), took].filter(Boolean).join(" ");
    }

    // Shares where any block has one; else the sizes themselves.
    function scaleOf(blocks) {
        const relative = blocks.some((block) => Number.isFinite(block.relative));
        const value = (block) => (relative ? block.relative : block.delta);
        const most = Math.max(...blocks.map((block) => value(block) || 0), 1e-12);
        const text = (number) =>
            !Number.isFinite(number) ? "–" : relative ? lycopatch.words.percent(number) : significant(number);
        return { relative, value, most, text };
    }

    const significant = (number) =>
        Number.isFinite(number)
            ? new Intl.NumberFormat(lycopatch.words.language(), { maximumSignificantDigits: 3 }).format(number)
            : "–";

    function groups(blocks) {
        const parts = new Map();
        for (const block of blocks) parts.set(block.part, [...(parts.get(block.part) || []), block]);
        return [...parts].sort(([a], [b]) => inOrder(a, b));
    }

    const inOrder = (a, b) => (b === "unet") - (a === "unet") || (a < b ? -1 : 1);
    const partTitle = (part) => PARTS[part] || part;

    function totals(parts, scale) {
        const { make } = lycopatch.dom;
        const names = Object.keys(parts).sort(inOrder);
        const most = Math.max(...names.map((name) => scale.value(parts[name]) || 0), 1e-12);
        return make(
            "dl",
            { class: "lycopatch-totals" },
            names.flatMap((name) => [
                make("dt", {}, partTitle(name)),
                make(
                    "dd",
                    {},
                    make(
                        "span",
                        { class: "lycopatch-meter", "aria-hidden": "true" },
                        make("span", { style: `width: ${share(scale.value(parts[name]), most)}%` }),
                    ),
                    make("b", {}, scale.text(scale.value(parts[name]))),
                ),
            ]),
        );
    }

    const share = (value, most) => (Math.max(0, Math.min(1, (value || 0) / most)) * 100).toFixed(2);

    // The numbers of the bar that the mouse, the finger or the focus is on stand above the picture.
    function chart(part, blocks, scale) {
        const { make } = lycopatch.dom;
        const strongest = blocks.reduce((a, b) => ((scale.value(b) || 0) > (scale.value(a) || 0) ? b : a));
        const readout = make("output", {}, sentence(strongest, scale));
        let picked = null;
        const show = (bar, block) => {
            picked?.classList.remove("lycopatch-picked");
            picked = bar;
            bar.classList.add("lycopatch-picked");
            readout.textContent = sentence(block, scale);
        };
        const every = Math.ceil(blocks.length / 26); // names that have room below
        const bars = blocks.map((block, place) => {
            const value = scale.value(block);
            const height = share(value, scale.most);
            const tick =
                Number.isFinite(block.spectral) && block.delta > 0
                    ? share((value * block.spectral) / block.delta, scale.most)
                    : null;
            const bar = make(
                "div",
                {
                    class: `lycopatch-column${Number.isFinite(value) ? "" : " lycopatch-column-none"}`,
                    onpointerenter: () => show(bar, block),
                    onpointerdown: () => show(bar, block),
                },
                make(
                    "div",
                    { class: "lycopatch-column-room" },
                    make("div", { class: "lycopatch-column-bar", style: `height: ${height}%` }),
                    tick && make("div", { class: "lycopatch-column-tick", style: `bottom: ${tick}%` }),
                ),
                make("small", {}, place % every === 0 ? shortName(block.block) : ""),
            );
            return bar;
        });
        return make(
            "figure",
            { class: `lycopatch-chart lycopatch-chart-${part === "unet" ? "unet" : "te"}` },
            make("figcaption", {}, make("b", {}, partTitle(part)), readout),
            make(
                "div",
                { class: "lycopatch-columns", "aria-hidden": "true" },
                make("span", { class: "lycopatch-most" }, scale.text(scale.most)),
                bars,
            ),
        );
    }

    const shortName = (block) => block.replace(/^TE\d?\./, "");

    function sentence(block, scale) {
        const facts = [
            scale.relative && Number.isFinite(block.relative) ? lycopatch.words.percent(block.relative) : null,
            `‖ΔW‖ ${significant(block.delta)}`,
            Number.isFinite(block.spectral) ? `σ ${significant(block.spectral)}` : null,
            t("{n} layer|{n} layers", { n: block.layers }),
        ];
        return `${block.block}: ${facts.filter(Boolean).join(" · ")}`;
    }

    function table(blocks) {
        const percent = (value) => (Number.isFinite(value) ? lycopatch.words.percent(value) : "–");
        return panels.table(
            [t("Block"), "‖ΔW‖ / ‖W‖", "‖ΔW‖", t("Spectral norm"), t("Layers")],
            blocks.map(({ block, relative, delta, spectral, layers }) => [
                block,
                percent(relative),
                significant(delta),
                significant(spectral),
                lycopatch.words.number(layers),
            ]),
        );
    }

    function unmeasured(measured) {
        const { make } = lycopatch.dom;
        const sentence = ({ reason, count }) =>
            t("{n} layer is not measured: {reason}|{n} layers are not measured: {reason}", {
                n: count,
                reason: lycopatch.words.said(reason),
            });
        const items = (measured.unmeasured || []).map((group) => make("li", {}, sentence(group)));
        return items.length > 0 ? [make("ul", { class: "lycopatch-reasons" }, items)] : [];
    }
})();
