// What the parts of one gallery share: where the server is, which prompts there are, and reading and writing them.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});

    // facts: what the container says in its data-lycopatch
    lycopatch.makeContext = function (facts, gallery) {
        const given = Array.isArray(facts.targets) && facts.targets.length > 0;
        const targets = given ? facts.targets : [{ title: "", prompt: facts.prompt, negative: facts.negative }];
        const prompt = new lycopatch.Prompt(targets);
        return {
            base: String(facts.base || "").replace(/\/$/, ""),
            token: String(facts.token || ""),
            host: String(facts.host || ""),
            place: facts.place === "page" ? "page" : "tab",
            targets,
            prompt,
            gallery,
            promptOf: () => prompt.read("prompt"),
            setPrompt: (text) => prompt.write("prompt", text),
            negativeOf: () => prompt.read("negative"),
            setNegative: (text) => prompt.write("negative", text),
            onPrompt: (listener) => prompt.subscribe(listener),
        };
    };
})();
