// Videos play on the card under the mouse, one at a time.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const REST_MS = 150; // the mouse only passing by starts nothing

    lycopatch.Film = class {
        constructor(canvas, rowOf, address) {
            this.rowOf = rowOf;
            this.address = address;
            this.tile = null;
            this.player = null;
            this.row = null; // whose video it is
            canvas.addEventListener("pointerover", (event) => this.enter(event.target.closest(".lycopatch-tile")), { passive: true });
            canvas.addEventListener("pointerleave", () => this.enter(null), { passive: true });
        }

        enter(tile) {
            if (tile === this.tile) return;
            this.stop();
            this.tile = tile;
            if (tile && tile.dataset.preview === "video") this.timer = setTimeout(() => this.play(), REST_MS);
        }

        play() {
            const row = this.rowOf(this.tile);
            const url = row && row.preview && row.preview.kind === "video" ? this.address(row.preview.full) : null;
            if (!url || !this.tile.isConnected) return;
            const player = lycopatch.dom.make("video", { class: "lycopatch-tile-video", loop: true, playsinline: true, "aria-hidden": "true" });
            player.muted = true; // else the browser does not let it begin
            player.src = url;
            this.tile.insertBefore(player, this.tile.children[2]);
            this.player = player;
            this.row = row;
            player.play().catch(() => this.player === player && this.stop()); // a kind that this browser does not know
        }

        // After scrolling, the card may show another network.
        check() {
            if (this.player && this.rowOf(this.tile)?.id !== this.row.id) this.stop();
        }

        stop() {
            clearTimeout(this.timer);
            if (!this.player) return;
            const player = this.player;
            this.player = null;
            player.pause();
            player.removeAttribute("src"); // the download ends
            player.load();
            player.remove();
        }

        close() {
            this.stop();
            this.tile = null;
        }
    };
})();
