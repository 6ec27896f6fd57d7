// Trigger words: chips that put a word into the prompt and take it out again, and groups of them under a name.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const panels = (lycopatch.panels = lycopatch.panels || {});
    const t = (...all) => lycopatch.words.t(...all);
    const FIRST = 20; // chips before "show all"

    panels.triggers = function (details, tools, editor) {
        const { make } = lycopatch.dom;
        const context = tools.context;
        const words = wordsOf(details);
        let groups = (details.words?.groups || []).map((group) => ({ name: group.name, words: [...group.words] }));
        if (words.length === 0 && groups.length === 0) return null;
        const chips = [];
        const chipsBox = make("div", { class: "lycopatch-triggers" });
        const groupsBox = make("div", { class: "lycopatch-triggers" });
        const form = make("form", { class: "lycopatch-trigger-form", hidden: true, onsubmit: saveGroup });
        const name = make("input", {
            type: "text",
            maxlength: "100",
            required: true,
            "aria-label": t("Name of the group"),
            placeholder: t("Name of the group"),
        });
        const save = lycopatch.dom.button(t("Save the lit words as a group"), () => {
            form.hidden = false;
            name.focus();
        });
        form.append(
            name,
            lycopatch.dom.button(t("Save"), null, { type: "submit" }),
            lycopatch.dom.button(t("Cancel"), () => (form.hidden = true)),
        );

        // All of these words are there: away with them; else those that are missing come in.
        function toggle(phrases) {
            const prompt = context.promptOf();
            const there = phrases.every((phrase) => lycopatch.phrases.has(prompt, phrase));
            const change = there ? lycopatch.phrases.remove : lycopatch.phrases.add;
            context.setPrompt(phrases.reduce(change, prompt));
            light();
        }

        function chip(label, phrases, count, title) {
            const button = make(
                "button",
                { type: "button", class: "lycopatch-trigger", "aria-pressed": "false", title, onclick: () => toggle(phrases) },
                make("span", {}, label),
                count && make("small", {}, lycopatch.words.number(count)),
            );
            button.phrases = phrases;
            return button;
        }

        function light() {
            const prompt = context.promptOf();
            for (const each of [...chips, ...groupsBox.querySelectorAll(".lycopatch-trigger")]) {
                each.setAttribute("aria-pressed", String(each.phrases.every((phrase) => lycopatch.phrases.has(prompt, phrase))));
            }
            save.disabled = lit().length === 0;
        }

        const lit = () =>
            words.filter(({ phrase }) => lycopatch.phrases.has(context.promptOf(), phrase)).map(({ phrase }) => phrase);

        function showChips(all) {
            const shown = all ? words : words.slice(0, FIRST);
            chips.splice(0, chips.length, ...shown.map(({ word, phrase, count, origin }) => chip(word, [phrase], count, origin)));
            const more = words.length - shown.length;
            chipsBox.replaceChildren(
                ...chips,
                ...(more > 0 ? [lycopatch.dom.button(t("Show {n} more", { n: more }), () => showChips(true))] : []),
            );
            light();
        }

        function showGroups() {
            groupsBox.replaceChildren(
                ...groups.map((group) =>
                    make(
                        "span",
                        { class: "lycopatch-trigger-group" },
                        chip(group.name, group.words, group.words.length, group.words.join(", ")),
                        lycopatch.dom.iconButton("close", t("Delete the group {name}", { name: group.name }), () =>
                            keep(groups.filter((each) => each !== group)),
                        ),
                    ),
                ),
            );
            light();
        }

        function keep(wanted) {
            groups = wanted;
            showGroups();
            editor.set("groups", groups);
        }

        function saveGroup(event) {
            event.preventDefault();
            const chosen = lit();
            if (chosen.length === 0 || name.value.trim() === "") return;
            keep([...groups.filter((group) => group.name !== name.value.trim()), { name: name.value.trim(), words: chosen }]);
            name.value = "";
            form.hidden = true;
            save.focus();
        }

        showChips(false);
        showGroups();
        const end = context.onPrompt(light);
        tools.signal.addEventListener("abort", () => end?.());
        return panels.section(
            t("Trigger words"),
            make(
                "p",
                { class: "lycopatch-quiet" },
                t(
                    "A click puts a word into the prompt, another takes it out. The numbers count the training captions with the word.",
                ),
            ),
            groupsBox,
            chipsBox,
            make("div", { class: "lycopatch-actions" }, save, form),
        );
    };

    // The words that somebody named as triggers first, then those of the training captions; each once.
    function wordsOf(details) {
        const found = new Map();
        const note = (word, phrase, count, origin) => {
            const key = phrase.trim().toLowerCase();
            if (key === "") return;
            const known = found.get(key);
            if (known) known.count = known.count || count;
            else found.set(key, { word, phrase, count, origin });
        };
        if (details.trigger) note(details.trigger, details.trigger, null, t("Named in the file"));
        for (const word of details.civitai?.trained_words || [])
            note(word, word.replace(/[\s,]+$/, ""), null, t("Named at civitai"));
        for (const [word, count] of details.tags || [])
            note(
                word,
                lycopatch.phrases.escaped(word),
                count,
                t("In {n} training caption|In {n} training captions", { n: count }),
            );
        return [...found.values()];
    }
})();
