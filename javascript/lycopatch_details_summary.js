// The head of the details: the preview, what kind of network it is and whether it fits, its tag.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);

    panels.summary = function (details, tools) {
        const { make } = lycopatch.dom;
        const { card } = details;
        return make(
            "section",
            { class: "lycopatch-summary" },
            preview(card, tools),
            make(
                "div",
                { class: "lycopatch-summary-facts" },
                badges(card, details.what),
                card.reason &&
                    make("p", { class: `lycopatch-verdict lycopatch-fit-${card.fit}` }, lycopatch.words.said(card.reason)),
                details.error && details.error !== card.reason && lycopatch.dom.failure(lycopatch.words.said(details.error)),
                details.tag
                    ? tag(details, tools)
                    : make("p", { class: "lycopatch-quiet" }, lycopatch.words.said(card.why_no_name) || t("No tag can call it.")),
                make(
                    "p",
                    { class: "lycopatch-quiet" },
                    `${card.folder ? `${card.folder}/` : ""}${details.file?.path_below?.split("/").pop() || card.stem}`,
                ),
            ),
        );
    };

    function preview(card, tools) {
        const { make } = lycopatch.dom;
        const src = lycopatch.address(tools.context, card.preview?.full);
        if (!src) return null;
        const attributes = { class: "lycopatch-preview", src, onerror: () => shown.remove() }; // gone, or of no kind that the browser knows
        const shown =
            card.preview.kind === "video"
                ? make("video", { ...attributes, controls: true, loop: true, playsinline: true, "aria-label": t("Preview") })
                : make("img", { ...attributes, alt: t("Preview"), decoding: "async" });
        if (card.preview.kind === "video") {
            shown.muted = true; // else the browser does not let it begin by itself
            shown.autoplay = true;
        }
        return shown;
    }

    function badges(card, what) {
        const { make, fitMark } = lycopatch.dom;
        const sure = what?.evidence?.length ? what.evidence.map(lycopatch.words.said).join("\n") : null;
        return make(
            "div",
            { class: "lycopatch-marks" },
            fitMark(card.fit, lycopatch.words.said(card.reason)),
            card.family_title && make("span", { class: "lycopatch-mark", title: sure }, card.family_title),
            card.variant && make("span", { class: "lycopatch-mark" }, card.variant),
            card.label && make("span", { class: "lycopatch-mark" }, card.label),
        );
    }

    function tag(details, tools) {
        const { make, iconButton, button } = lycopatch.dom;
        const said = make("span", { class: "lycopatch-said", role: "status" });
        const insert = button(
            "",
            () =>
                perform(async () => {
                    const answer = await lycopatch.toggle(tools.context, details.card.id);
                    show(answer.added);
                    return "";
                }),
            { class: "lycopatch-button lycopatch-button-main" },
        );
        const copy = iconButton("copy", t("Copy the tag"), () =>
            perform(async () => {
                await lycopatch.dom.copy(details.tag, copy.parentElement);
                return t("Copied");
            }),
        );

        async function perform(act) {
            try {
                said.textContent = await act();
            } catch (error) {
                said.textContent = error.message;
            }
        }

        function show(chosen) {
            insert.textContent = chosen ? t("Remove from the prompt") : t("Insert into the prompt");
            insert.setAttribute("aria-pressed", String(chosen));
        }

        // Whether a tag of the prompt means this network, by whatever name, only the server knows.
        async function look() {
            const { rows } = await lycopatch.request(
                tools.context,
                "POST",
                "stack",
                { prompt: tools.context.promptOf(), negative: "" },
                tools.signal,
            );
            show(rows.some((row) => row.id === details.card.id));
        }

        show(false);
        look().catch(() => {}); // the button then says "insert", and the server decides at the click
        return make("div", { class: "lycopatch-tag" }, make("code", {}, details.tag), copy, insert, said);
    }
})();
