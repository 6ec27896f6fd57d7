// A click on a network in the LycoPatch tab fills the name box and inspects it; typing in the search box searches;
// the list and the report come by themselves when they are first seen. All of it also works by the buttons alone.
(function () {
    "use strict";

    const PAUSE_MS = 350; // between the last key and the search
    let typed = 0;

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => root().querySelector(selector);
    // The id is on the button itself or around it, depending on the release of gradio.
    const press = (id) => (find(`button#${id}`) || find(`#${id} button`))?.click();

    function fill(id, text) {
        const box = find(`#${id} textarea, #${id} input`);
        if (!box) return;
        box.value = text;
        if (typeof updateInput === "function") updateInput(box);
        else box.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function pick(event) {
        const button = event.target.closest?.("button.lycopatch-pick");
        if (!button) return;
        fill("lycopatch_name", button.dataset.lycopatchName);
        setTimeout(() => press("lycopatch_inspect"), 50); // gradio takes over the text first
        const pane = find("#lycopatch_file_pane");
        if (pane && pane.getBoundingClientRect().top > window.innerHeight * 0.8) pane.scrollIntoView({ behavior: "smooth" });
    }

    function search(event) {
        if (!event.target.closest?.("#lycopatch_search")) return;
        clearTimeout(typed);
        typed = setTimeout(() => press("lycopatch_search_button"), PAUSE_MS);
    }

    function whenFirstSeen(id, react) {
        const element = find(`#${id}`);
        if (!element || typeof IntersectionObserver !== "function") return;
        const observer = new IntersectionObserver((entries) => {
            if (!entries.some((entry) => entry.isIntersecting)) return;
            observer.disconnect();
            react();
        });
        observer.observe(element);
    }

    function start() {
        if (!find("#lycopatch_table")) return false;
        root().addEventListener("click", pick);
        root().addEventListener("input", search);
        whenFirstSeen("lycopatch_table", () => press("lycopatch_search_button"));
        whenFirstSeen("lycopatch_report", () => press("lycopatch_report_refresh"));
        return true;
    }

    function startWhenReady(tries) {
        if (!start() && tries > 0) setTimeout(() => startWhenReady(tries - 1), 500);
    }

    if (typeof onUiLoaded === "function") onUiLoaded(() => startWhenReady(20));
    else startWhenReady(120);
})();
