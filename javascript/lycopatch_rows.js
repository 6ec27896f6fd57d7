// The networks that the grid needs now, fetched in windows; those not looked at for a while are forgotten.
(function () {
    "use strict";
    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const LIMIT = 120; // cards in a window
    const MOST = 12; // windows kept: 1,440 cards
    const AHEAD = 40; // cards beyond what is seen
    const FLIGHTS = 2; // questions at a time
    const PAUSE_MS = 100; // between two questions, for those who drag the scroll bar
    const SETTLE_MS = 800; // before asking again because the library changed

    lycopatch.Rows = class {
        // ask({offset, limit, facets}, signal) → the server's answer. changed({fresh, facets}) when there is something new to show.
        constructor(ask, changed) {
            this.ask = ask;
            this.changed = changed;
            this.windows = new Map(); // number of the window → {rows, mark}; the order is that of use
            this.flights = new Map(); // number of the window → AbortController
            this.answer = null; // the last one without its rows
            this.failure = null;
            this.version = null;
            this.mark = 0; // a window with an older mark is shown, and asked for again
            this.fresh = true; // the question is a new one: what is shown still belongs to the former
            this.facets = true;
            this.range = [0, 0];
            this.asked = 0;
            this.closed = false;
            this.pumpSoon = lycopatch.dom.later(PAUSE_MS, () => this.pump());
            this.settled = lycopatch.dom.later(SETTLE_MS, () => this.refresh(true));
        }

        get count() {
            return this.answer ? this.answer.found : 0;
        }

        get busy() {
            return this.fresh && !this.failure;
        }

        at(index) {
            const window = this.windows.get(Math.floor(index / LIMIT));
            return window ? window.rows[index % LIMIT] : undefined;
        }

        // Where a network is; −1 when it is not at hand.
        indexOf(id) {
            for (const [number, { rows }] of this.windows) {
                const place = rows.findIndex((row) => row.id === id);
                if (place >= 0) return number * LIMIT + place;
            }
            return -1;
        }

        // Every card that is at hand and passes, to change it in place.
        each(change) {
            for (const window of this.windows.values()) window.rows.forEach(change);
        }

        // Another question (other words, filters or order), to be shown from the card `first` on.
        reset(first) {
            this.stop();
            this.fresh = true;
            this.facets = true;
            this.failure = null;
            this.range = [first, first];
            this.pump();
        }

        // The same question; what is at hand may have changed. It is asked for again when the grid wants it.
        outdate(facets) {
            this.mark += 1;
            this.facets = this.facets || facets;
            this.failure = null;
        }

        refresh(facets) {
            this.outdate(facets);
            this.pump();
        }

        want(first, last) {
            if (this.fresh) return;
            this.range = [first, last];
            this.pump();
        }

        stop() {
            this.pumpSoon.stop();
            this.settled.stop();
            for (const flight of this.flights.values()) flight.abort();
            this.flights.clear();
            this.counting?.abort();
            this.counting = null;
        }

        close() {
            this.closed = true;
            this.stop();
            this.windows.clear();
        }

        needed() {
            const [first, last] = this.range;
            if (this.fresh) return [Math.floor(first / LIMIT)];
            const end = Math.floor(Math.min(this.count - 1, last + AHEAD) / LIMIT);
            const numbers = [];
            for (let number = Math.floor(Math.max(0, first - AHEAD) / LIMIT); number <= end; number += 1) numbers.push(number);
            return numbers;
        }

        pump() {
            if (this.closed || this.failure) return;
            const needed = this.needed();
            for (const [number, flight] of this.flights) {
                if (needed.includes(number)) continue;
                flight.abort();
                this.flights.delete(number);
            }
            for (const number of needed) {
                const window = this.windows.get(number);
                if (window) {
                    this.windows.delete(number);
                    this.windows.set(number, window); // used just now
                }
                if ((window && window.mark === this.mark && !this.fresh) || this.flights.has(number)) continue;
                if (this.flights.size >= FLIGHTS) return; // its end pumps again
                if (performance.now() - this.asked < PAUSE_MS && !this.fresh) return void this.pumpSoon();
                this.fly(number);
            }
        }

        async fly(number) {
            const flight = new AbortController();
            const mark = this.mark;
            this.flights.set(number, flight);
            this.asked = performance.now();
            try {
                const answer = await this.ask({ offset: number * LIMIT, limit: LIMIT, facets: false }, flight.signal);
                if (flight.signal.aborted) return;
                this.flights.delete(number);
                this.take(number, answer, mark);
            } catch (error) {
                if (flight.signal.aborted || this.closed) return;
                this.flights.delete(number);
                this.failure = error;
                this.changed({ fresh: false, facets: null });
            }
        }

        take(number, answer, mark) {
            const { rows, facets: _, ...rest } = answer;
            const fresh = this.fresh;
            if (fresh) this.windows.clear();
            else if (rest.version !== this.version) this.settled();
            this.fresh = false;
            this.version = rest.version;
            this.answer = rest;
            this.windows.delete(number);
            this.windows.set(number, { rows, mark });
            for (const old of [...this.windows.keys()].slice(0, -MOST)) this.windows.delete(old);
            this.changed({ fresh, facets: null });
            this.pump();
            this.countChoices();
        }

        // What the filters could still choose takes longer to find out than what is shown, which does not wait for it.
        async countChoices() {
            if (!this.facets || this.flights.size > 0) return;
            this.facets = false;
            this.counting?.abort();
            const counting = (this.counting = new AbortController());
            try {
                const { facets } = await this.ask({ offset: 0, limit: 1, facets: true }, counting.signal);
                if (!counting.signal.aborted && !this.closed) this.changed({ fresh: false, facets });
            } catch {
                this.facets = true; // with the next answer again; if the server is gone, the rows say so
            }
        }
    };
})();
