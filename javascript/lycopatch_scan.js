// Following the scan of the folders while it runs, and asking for one when somebody comes back to the gallery.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const POLL_MS = 800;
    const AWAY_MS = 10000; // after that long out of sight, files may have changed

    lycopatch.Scan = class {
        // told({running, done, total}): how far; changed(): the library is another one now
        constructor(context, told, changed) {
            this.context = context;
            this.told = told;
            this.changed = changed;
            this.timer = 0;
            this.version = null;
            this.left = null;
            this.closed = false;
        }

        close() {
            this.closed = true;
            clearTimeout(this.timer);
        }

        // Also called with the state that comes with every answer about networks.
        heard(scanning) {
            this.told(scanning);
            if (scanning.running && this.timer === 0 && !this.closed) this.timer = setTimeout(() => this.poll(), POLL_MS);
        }

        async poll() {
            try {
                const state = await lycopatch.request(this.context, "GET", "scan");
                if (this.closed) return;
                this.timer = 0;
                const over = !state.running;
                if (over || (this.version !== null && state.version !== this.version)) this.changed();
                this.version = state.version;
                this.heard(state);
            } catch (error) {
                this.timer = 0;
                this.told({ running: false, done: 0, total: 0 }); // the cards' own questions say what is wrong
            }
        }

        async begin() {
            const { scanning } = await lycopatch.request(this.context, "POST", "refresh", {});
            if (this.closed) return;
            this.changed();
            this.heard(scanning);
        }

        hide() {
            this.left = performance.now();
        }

        // In sight again: files that came meanwhile are looked for quietly.
        async back() {
            if (this.left === null || performance.now() - this.left < AWAY_MS) return;
            this.left = null;
            try {
                await this.begin();
            } catch (error) {
                this.changed(); // that question fails too, and its answer says why
            }
        }
    };
})();
