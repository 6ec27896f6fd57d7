// A click on a network: its tag and words go into the prompt, or exactly those that a click put there go away again.
(function () {
    "use strict";
    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const MOST = 300; // insertions remembered per prompt
    const TRIES = 3;

    const place = (context) => `lycopatch.inserted.${context.host}.${context.prompt.target.title}`;

    function remembered(context) {
        try {
            const kept = JSON.parse(sessionStorage.getItem(place(context)) || "{}");
            return new Map(kept && typeof kept === "object" ? Object.entries(kept) : []);
        } catch (error) {
            return new Map(); // no storage: the server then removes the tag and the words it would insert now
        }
    }

    function remember(context, id, inserted) {
        const all = remembered(context);
        all.delete(id);
        if (inserted) all.set(id, inserted);
        try {
            sessionStorage.setItem(place(context), JSON.stringify(Object.fromEntries([...all].slice(-MOST))));
        } catch (error) {
            console.warn("LycoPatch: this browser keeps no session data;", error.message);
        }
    }

    async function toggle(context, id) {
        for (let tries = 0; tries < TRIES; tries += 1) {
            const prompt = context.promptOf();
            const negative = context.negativeOf();
            const undo = remembered(context).get(id);
            const answer = await lycopatch.request(context, "POST", "toggle", { id, prompt, negative, undo });
            if (context.promptOf() !== prompt || context.negativeOf() !== negative) continue; // typed meanwhile: once more
            if (!context.setPrompt(answer.prompt)) {
                throw new Error(lycopatch.words.t("The prompt box of {title} is not on this page.", { title: context.prompt.target.title }));
            }
            if (answer.negative !== negative) context.setNegative(answer.negative);
            remember(context, id, answer.added ? answer.inserted : null);
            context.gallery.mark(id, { chosen: answer.added });
            return answer;
        }
        throw new Error(lycopatch.words.t("The prompt is being edited; try again."));
    }

    // One after the other: two quick clicks must not both begin from the same text.
    lycopatch.toggle = function (context, id) {
        const turn = () => toggle(context, id);
        const done = (context.turn || Promise.resolve()).then(turn, turn);
        context.turn = done;
        return done;
    };
})();
