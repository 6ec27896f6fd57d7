// Words between the commas of a prompt: whether they are there, adding them, taking them away again.
// Tags are left to the server; what stands inside one is no word of the prompt.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const CLOSING = { "(": ")", "[": "]", "{": "}" };

    // Where a phrase is, as [start, end] with the brackets and the number that belong to it alone; null: nowhere.
    function find(text, phrase) {
        const wanted = phrase
            .trim()
            .replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")
            .replace(/\s+/g, "\\s+");
        if (wanted === "") return null;
        const match = new RegExp(`(^|[,\\n(\\[{|>])(\\s*)(${wanted})(?=\\s*(?:$|[,\\n)\\]}|<:]))`, "iu").exec(text);
        if (!match) return null;
        const start = match.index + match[1].length + match[2].length;
        return widened(text, start, start + match[3].length);
    }

    function widened(text, start, end) {
        for (;;) {
            const number = /^\s*(?::\s*[\d.]+\s*)?/.exec(text.slice(end))[0].length;
            const closing = CLOSING[text[start - 1]];
            if (closing === undefined || text[end + number] !== closing) return [start, end];
            start -= 1;
            end += number + 1;
        }
    }

    const has = (text, phrase) => find(text, phrase) !== null;

    function add(text, phrase) {
        if (has(text, phrase)) return text;
        const before = text.replace(/[\s,]+$/, "");
        return before === "" ? phrase.trim() : `${before}, ${phrase.trim()}`;
    }

    // Without the phrase and one comma beside it.
    function remove(text, phrase) {
        const place = find(text, phrase);
        if (!place) return text;
        const before = text.slice(0, place[0]);
        const after = text.slice(place[1]);
        if (/(^|[,\n])\s*$/.test(before) && /^\s*,/.test(after)) return before + after.replace(/^\s*,[ \t]*/, "");
        return before.replace(/,?[ \t]*$/, "") + after;
    }

    // As a training caption's word is written in a prompt, where bare brackets would mean emphasis.
    function escaped(word) {
        return word.replace(/\\?([()[\]])/g, "\\$1");
    }

    lycopatch.phrases = { has, add, remove, escaped };
})();
