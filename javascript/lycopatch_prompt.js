// The prompt boxes of the page: reading, writing, and noticing that somebody else wrote.
(function () {
    "use strict";
    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const LOOK_MS = 1000; // gradio changes a box without any event, for example when it pastes a picture's parameters

    const page = () => (typeof gradioApp === "function" ? gradioApp() : document);

    function find(selectors) {
        for (const selector of [].concat(selectors || [])) {
            const found = page().querySelector(selector);
            const box = found && !("value" in found) ? found.querySelector("textarea, input") : found;
            if (box) return box;
        }
        return null;
    }

    function write(box, text) {
        if (box.value === text) return;
        box.value = text;
        if (typeof updateInput === "function") updateInput(box);
        else box.dispatchEvent(new Event("input", { bubbles: true }));
    }

    lycopatch.Prompt = class {
        // targets: [{title, prompt: selector or selectors, negative: the same}, …]
        constructor(targets) {
            this.targets = targets;
            this.index = 0;
            this.listeners = new Set();
            this.boxes = new Map();
            this.last = "";
            this.look = this.look.bind(this);
            document.addEventListener("input", this.look, true);
            this.timer = setInterval(this.look, LOOK_MS);
        }

        close() {
            document.removeEventListener("input", this.look, true);
            clearInterval(this.timer);
            this.listeners.clear();
        }

        get target() {
            return this.targets[this.index] || { title: "" };
        }

        use(index) {
            if (index < 0 || index >= this.targets.length) return;
            this.index = index;
            this.boxes.clear();
            this.look();
        }

        box(kind) {
            const known = this.boxes.get(kind);
            if (known && known.isConnected) return known; // gradio may have made it again
            const box = find(this.target[kind]);
            this.boxes.set(kind, box);
            return box;
        }

        read(kind) {
            const box = this.box(kind);
            return box ? box.value : "";
        }

        // False when the page has no such box (the text is then lost, and the caller says so).
        write(kind, text) {
            const box = this.box(kind);
            if (!box) return false;
            write(box, text);
            this.look();
            return true;
        }

        // Call back with the prompt whenever it is another one. Returns what ends that.
        subscribe(listener) {
            this.listeners.add(listener);
            return () => this.listeners.delete(listener);
        }

        look() {
            const text = this.read("prompt");
            const now = `${this.index}\n${text}`;
            if (now === this.last) return;
            this.last = now;
            for (const listener of this.listeners) listener(text);
        }
    };
})();
