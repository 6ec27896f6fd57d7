// Gives every container in the page its gallery, whenever gradio makes one, and ends the gallery of one that is gone.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const PAUSE_MS = 150;
    const NEEDED = ["dom", "words", "request", "Prompt", "State", "Rows", "Card", "Lines", "Grid", "GridKeys", "Film", "Toolbar", "facets", "Filters", "Folders", "Notes", "Scan", "Acts", "makeContext", "Gallery", "toggle"];

    if (lycopatch.galleries) return; // loaded twice
    lycopatch.galleries = new Map(); // container → its gallery; null where there can be none
    const containers = document.getElementsByClassName("lycopatch-gallery");
    let waiting = 0;

    function mount(container) {
        let facts;
        try {
            facts = JSON.parse(container.dataset.lycopatch);
            lycopatch.galleries.set(container, new lycopatch.Gallery(container, facts));
        } catch (error) {
            lycopatch.galleries.set(container, null);
            container.textContent = facts ? `LycoPatch: ${error.message}` : "LycoPatch: this page's data-lycopatch is not readable.";
            console.error("LycoPatch: the gallery could not be made;", error);
        }
    }

    function look() {
        waiting = 0;
        if (NEEDED.some((part) => !lycopatch[part])) return soon(); // the scripts come in any order
        for (const [container, gallery] of lycopatch.galleries) {
            if (container.isConnected) continue;
            lycopatch.galleries.delete(container);
            if (gallery) gallery.close();
        }
        for (const container of containers) {
            if (container.dataset.lycopatch && !lycopatch.galleries.has(container)) mount(container);
        }
    }

    // At most one look per pause, however often the page changes.
    function soon() {
        if (waiting === 0) waiting = setTimeout(look, PAUSE_MS);
    }

    function start() {
        new MutationObserver(soon).observe(document.body, { childList: true, subtree: true });
        look();
    }

    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
})();
