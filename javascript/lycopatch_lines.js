// The lines of cards that are in the page: a few, for any number of networks. The n-th always shows a line of the grid
// whose number divided by how many there are leaves n; so one that leaves at one end comes in again at the other.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const BUDGET_MS = 4; // for filling cards in one frame; the rest of the frame is the browser's

    let made = 0;

    lycopatch.Lines = class {
        // at(index) → the card's network or undefined
        constructor(canvas, at, address) {
            this.canvas = canvas;
            this.at = at;
            this.address = address;
            this.name = `lycopatch-grid-${(made += 1)}`;
            this.all = []; // {element, cards, number: of the line it shows, ready: its cards are filled}
            this.columns = 1;
            this.first = 0;
        }

        get count() {
            return this.all.length;
        }

        arrange(columns, count) {
            const { make } = lycopatch.dom;
            if (columns !== this.columns) {
                this.all.forEach((line) => line.element.remove());
                this.all = [];
                this.columns = columns;
            }
            while (this.count > count) this.all.pop().element.remove();
            while (this.count < count) {
                const id = `${this.name}-${this.count}`;
                const cards = Array.from({ length: columns }, (_, column) => new lycopatch.Card(`${id}-${column}`, this.address));
                const element = make("div", { class: "lycopatch-line", role: "row" }, cards.map((card) => card.element));
                this.all.push({ element, cards, number: -1, ready: false });
                this.canvas.append(element);
            }
            for (const line of this.all) line.number = -1;
        }

        // Show the lines from `first` on.
        place(first, height) {
            this.first = first;
            for (let number = first; number < first + this.count; number += 1) {
                const line = this.all[number % this.count];
                if (line.number === number) continue;
                line.number = number;
                line.ready = false;
                line.element.style.transform = `translateY(${number * height}px)`;
                line.element.setAttribute("aria-rowindex", number + 1);
                line.element.classList.add("lycopatch-blank"); // shows nothing of its former cards
            }
        }

        // Fill so many lines of networks, the middle ones first; false when some are left for the next frame.
        fill(most, networks) {
            const until = performance.now() + BUDGET_MS;
            const middle = this.first + this.count / 2;
            const waiting = this.all.filter((line) => !line.ready);
            waiting.sort((one, other) => Math.abs(one.number - middle) - Math.abs(other.number - middle));
            for (const line of waiting.slice(0, most)) {
                line.cards.forEach((card, column) => this.fillCard(card, line.number * this.columns + column, networks));
                line.ready = true;
                line.element.classList.remove("lycopatch-blank");
                if (performance.now() > until) break;
            }
            return this.all.every((line) => line.ready);
        }

        fillCard(card, index, networks) {
            const row = index < networks ? this.at(index) : undefined;
            if (row) card.show(row);
            else card.empty(index < networks ? "wait" : "none");
        }

        fetchPictures() {
            for (const line of this.all) {
                for (const card of line.cards) if (card.lacksPicture) card.fetchPicture();
            }
        }

        // What the cards show has changed.
        stale() {
            for (const line of this.all) line.ready = false;
        }

        // The element of a card, when it is in the page.
        elementAt(index) {
            const number = Math.floor(index / this.columns);
            const line = this.all[number % this.count];
            return line && line.number === number ? line.cards[index % this.columns].element : null;
        }

        // Which card an element belongs to; −1 for none.
        indexOf(element) {
            const tile = element.closest(".lycopatch-tile");
            const line = tile && this.all.find((each) => each.element === tile.parentNode);
            const column = line ? line.cards.findIndex((card) => card.element === tile) : -1;
            return column < 0 ? -1 : line.number * this.columns + column;
        }
    };
})();
