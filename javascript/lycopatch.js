// The report of the last picture comes by itself when it is first seen; without this, its button does the same.
(function () {
    "use strict";

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (selector) => root().querySelector(selector);
    // The id is on the button itself or around it, depending on the release of gradio.
    const press = (id) => (find(`button#${id}`) || find(`#${id} button`))?.click();

    function start() {
        const report = find("#lycopatch_report");
        if (!report) return false;
        if (typeof IntersectionObserver !== "function") return true;
        const observer = new IntersectionObserver((entries) => {
            if (!entries.some((entry) => entry.isIntersecting)) return;
            observer.disconnect();
            press("lycopatch_report_refresh");
        });
        observer.observe(report);
        return true;
    }

    function startWhenReady(tries) {
        if (!start() && tries > 0) setTimeout(() => startWhenReady(tries - 1), 500);
    }

    if (typeof onUiLoaded === "function") onUiLoaded(() => startWhenReady(20));
    else startWhenReady(120);
})();
