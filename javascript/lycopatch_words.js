// The page's own texts in the reader's language, and numbers, sizes and times as that language writes them.
// t("{n} layer|{n} layers", {n}): English is the key; what is before the bar is said of one.
// Sentences that come from the server go through said(): those it says again and again are known in Japanese too.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    let chosen = null;

    // What the page's container says, else the WebUI's localization, else the browser.
    function language() {
        chosen = chosen || stated() || localized() || (/^ja\b/i.test(navigator.language || "") ? "ja" : "en");
        return chosen;
    }

    function stated() {
        for (const element of document.querySelectorAll("[data-lycopatch]")) {
            try {
                const wanted = JSON.parse(element.dataset.lycopatch).language;
                if (wanted === "ja" || wanted === "en") return wanted;
            } catch {
                continue; // the gallery says that its container can not be read
            }
        }
        return null;
    }

    function localized() {
        const setting = window.opts?.localization;
        if (setting && setting !== "None") return /^ja/i.test(setting) ? "ja" : "en";
        const texts = Object.values(window.localization || {});
        if (texts.length === 0) return null;
        return texts.some((text) => typeof text === "string" && /[\u3040-\u30ff]/.test(text)) ? "ja" : "en";
    }

    function t(english, params = {}) {
        const text = language() === "ja" ? (lycopatch.japanese?.texts[english] ?? english) : english;
        const [one, many] = text.split("|");
        return filled(many !== undefined && params.n !== 1 ? many : one, params);
    }

    function filled(text, params) {
        return text.replace(/\{(\w+)\}/g, (whole, name) => {
            const value = params[name];
            if (value === undefined) return whole;
            return typeof value === "number" ? number(value) : String(value);
        });
    }

    // A sentence or a label of the server's, in Japanese when it is one of those that are known; so are its parts.
    function said(text) {
        if (typeof text !== "string" || language() !== "ja") return text || "";
        if (!heard.has(text)) {
            if (heard.size >= MOST_HEARD) heard.clear();
            heard.set(text, translated(text));
        }
        return heard.get(text);
    }

    function translated(text) {
        for (const [shape, japanese] of patterns()) {
            const match = shape.exec(text);
            if (!match) continue;
            const parts = Object.entries(match.groups || {}).map(([name, part]) => [name, said(part)]);
            return filled(japanese, Object.fromEntries(parts));
        }
        return text;
    }

    const MOST_HEARD = 1000;
    const heard = new Map(); // cards say the same again and again while one scrolls
    let compiled = null;

    function patterns() {
        const known = (lycopatch.japanese && lycopatch.japanese.said) || {};
        compiled = compiled || Object.entries(known).map(([english, japanese]) => [pattern(english), japanese]);
        return compiled;
    }

    function pattern(english) {
        const parts = english.split(/\{(\w+)\}/);
        const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
        return new RegExp(`^${parts.map((part, place) => (place % 2 ? `(?<${part}>.+?)` : escaped(part))).join("")}$`, "su");
    }

    function number(value, digits = 2) {
        return new Intl.NumberFormat(language(), { maximumFractionDigits: digits }).format(value);
    }

    // 0.0421 → "4.2 %"; two digits that mean something, also for the smallest.
    function percent(share) {
        const options = { style: "percent", maximumSignificantDigits: Math.abs(share) >= 1 ? 3 : 2 };
        return new Intl.NumberFormat(language(), options).format(share);
    }

    const UNITS = ["B", "KB", "MB", "GB", "TB"];

    function size(bytes) {
        let unit = 0;
        for (; bytes >= 1000 && unit < UNITS.length - 1; unit++) bytes /= 1024;
        return `${number(bytes, bytes < 10 && unit > 0 ? 1 : 0)} ${UNITS[unit]}`;
    }

    function seconds(value) {
        if (value < 1) return t("{ms} ms", { ms: number(Math.max(1, value * 1000), 0) });
        return t("{s} s", { s: number(value, value < 10 ? 1 : 0) });
    }

    // Seconds since 1970, as file systems count.
    function date(since1970) {
        return new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(since1970 * 1000);
    }

    // For one page, this language; without one, what the page says is looked up anew.
    function use(wanted) {
        chosen = wanted === "ja" || wanted === "en" ? wanted : null;
        heard.clear();
    }

    lycopatch.words = { t, said, language, use, number, percent, size, seconds, date };
})();
