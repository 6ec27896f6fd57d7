// Small tools of all panels: elements (never from HTML text), delays, the clipboard, notices.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const SVG = "http://www.w3.org/2000/svg";

    // make("button", {class: "a", onclick: f, disabled: true, "aria-label": "…"}, "text", element, [elements], null)
    function make(tag, attributes = {}, ...children) {
        return dressed(document.createElement(tag), attributes, children);
    }

    function draw(tag, attributes = {}, ...children) {
        return dressed(document.createElementNS(SVG, tag), attributes, children);
    }

    function dressed(element, attributes, children) {
        for (const [name, value] of Object.entries(attributes)) {
            if (value === null || value === undefined || value === false) continue;
            if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
            else if (name === "value") element.value = value;
            else element.setAttribute(name, value === true ? "" : value);
        }
        element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
        return element;
    }

    const ICONS = {
        close: "M5 5l10 10M15 5L5 15",
        back: "M12.5 4l-6 6 6 6",
        next: "M7.5 4l6 6-6 6",
        copy: "M7 7V4h9v9h-3M4 7h9v9H4z",
        remove: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
        star: "M10 3l2.2 4.6 5 .7-3.6 3.5.9 5L10 14.4 5.5 16.8l.9-5L2.8 8.3l5-.7z",
        add: "M10 4v12M4 10h12",
        again: "M15.5 8A6 6 0 1 0 16 11M16 4v4h-4",
        split: "M10 16v-6M10 10L5 4M10 10l5-6",
    };

    function icon(name) {
        const path = draw("path", { d: ICONS[name] });
        return draw("svg", { class: "lycopatch-icon", viewBox: "0 0 20 20", "aria-hidden": "true" }, path);
    }

    // A button that is an icon: its text is for screen readers and for the mouse that rests on it.
    function iconButton(name, label, onclick, attributes = {}) {
        return make(
            "button",
            { type: "button", class: "lycopatch-tool", title: label, "aria-label": label, onclick, ...attributes },
            icon(name),
        );
    }

    function button(label, onclick, attributes = {}) {
        return make("button", { type: "button", class: "lycopatch-button", onclick, ...attributes }, label);
    }

    // The function, called once things have been quiet for a while; .now() calls a waiting one, .stop() forgets it.
    function later(milliseconds, react) {
        let timer = null;
        const call = () => {
            timer = null;
            react();
        };
        const wait = () => {
            clearTimeout(timer);
            timer = setTimeout(call, milliseconds);
        };
        wait.stop = () => {
            clearTimeout(timer);
            timer = null;
        };
        wait.now = () => {
            if (timer === null) return;
            clearTimeout(timer);
            call();
        };
        return wait;
    }

    // Whether an element has a place on the page, and a call whenever it comes into sight. Returns what ends that.
    const inSight = (element) => element.getClientRects().length > 0;

    function onSight(element, react) {
        const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && react());
        observer.observe(element);
        return () => observer.disconnect();
    }

    // A page that is not served over https has no clipboard of its own; selecting a text and copying it works there.
    async function copy(text, near) {
        if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
        const box = make("textarea", { class: "lycopatch-unseen", value: text, readonly: true });
        const focused = document.activeElement;
        near.append(box);
        box.select();
        const done = document.execCommand("copy");
        box.remove();
        focused?.focus?.();
        if (!done) throw new Error(lycopatch.words.t("The browser does not allow copying."));
    }

    // A sentence about something that went wrong, with a way to try again where there is one.
    function failure(sentence, retry = null) {
        return make(
            "div",
            { class: "lycopatch-says lycopatch-says-bad", role: "alert" },
            make("span", {}, sentence),
            retry && button(lycopatch.words.t("Try again"), retry),
        );
    }

    function busy(sentence, cancel = null) {
        return make(
            "div",
            { class: "lycopatch-busy", role: "status" },
            make("span", { class: "lycopatch-spinner", "aria-hidden": "true" }),
            make("span", {}, sentence),
            cancel && button(lycopatch.words.t("Cancel"), cancel),
        );
    }

    const FITS = { yes: "✓", unknown: "?", no: "✕", damaged: "!", missing: "!" };

    // ✓ ? ✕ ! with the reason for the mouse and for screen readers.
    function fitMark(fit, reason) {
        const known = fit in FITS ? fit : "unknown";
        return make(
            "span",
            { class: `lycopatch-fit lycopatch-fit-${known}`, role: "img", title: reason, "aria-label": reason || known },
            FITS[known],
        );
    }

    function remember(storage, key, value) {
        try {
            if (value === null) storage.removeItem(key);
            else storage.setItem(key, JSON.stringify(value));
        } catch {
            // a private window without storage: the page only forgets sooner
        }
    }

    function recall(storage, key, otherwise) {
        try {
            return JSON.parse(storage.getItem(key)) ?? otherwise;
        } catch {
            return otherwise;
        }
    }

    const isAbort = (error) => error?.name === "AbortError";

    lycopatch.dom = {
        make,
        draw,
        icon,
        iconButton,
        button,
        later,
        inSight,
        onSight,
        copy,
        failure,
        busy,
        fitMark,
        remember,
        recall,
        isAbort,
    };
})();
