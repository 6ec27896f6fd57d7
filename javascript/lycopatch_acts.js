// What is done with one network of the grid: into the prompt, among the favourites, its details, its weight.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const WEIGHT_STEP = 0.05;
    const WAIT_MS = 100;
    const WAITS = 50;

    lycopatch.Acts = class {
        constructor(gallery) {
            this.gallery = gallery;
            this.context = gallery.context;
        }

        // name: "toggle", "details", "favourite", "heavier" or "lighter"; element: the card
        async act(name, row, element) {
            if (name === "details") lycopatch.openDetails?.(this.context, row.id, element);
            else if (name === "favourite") await this.tried(() => this.favour(row));
            else if (name === "toggle") await this.tried(() => this.toggle(row));
            else if (row.chosen) await this.tried(() => lycopatch.stackEdit?.(this.context, row.id, name === "heavier" ? WEIGHT_STEP : -WEIGHT_STEP));
        }

        // Do it, or say why it can not be done.
        async tried(act) {
            const { notes } = this.gallery;
            notes.hush();
            try {
                await act();
            } catch (error) {
                if (!lycopatch.dom.isAbort(error)) notes.tell(error.message);
            }
        }

        async toggle(row) {
            if (!row.name && !row.chosen) throw new Error(lycopatch.words.said(row.why_no_name));
            await lycopatch.toggle(this.context, row.id);
        }

        // Shown at once; taken back when the server did not take it.
        async favour(row) {
            const { id } = row;
            const wanted = !row.favourite;
            this.gallery.mark(id, { favourite: wanted });
            try {
                const { favourite } = await lycopatch.request(this.context, "POST", "favourite", { id, on: wanted });
                this.gallery.mark(id, { favourite });
            } catch (error) {
                this.gallery.mark(id, { favourite: !wanted });
                throw error;
            }
        }

        // The id of the network after or before one, in the order of the grid, which goes there too; null at the ends.
        async neighbour(id, step) {
            const { rows, grid } = this.gallery;
            const from = rows.indexOf(id);
            const index = from + step;
            if (from < 0 || index < 0 || index >= rows.count) return null;
            grid.active = index;
            grid.keys.reveal();
            for (let waits = 0; waits < WAITS && !rows.at(index) && !rows.failure; waits += 1) {
                await new Promise((wake) => setTimeout(wake, WAIT_MS)); // the grid asks for it
            }
            return rows.at(index)?.id ?? null;
        }
    };
})();
