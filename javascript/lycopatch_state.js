// What the gallery remembers over reloads. What is read back is checked like anything else from outside.
(function () {
    "use strict";
    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const MOST_VALUES = 50;
    const LONGEST = 300; // of the words searched for
    const LONGEST_VALUE = 1000; // of a folder, for example

    // Name, title, and whether the server begins with the largest
    lycopatch.ORDERS = [
        ["name", "Name", false],
        ["newest", "File date", true],
        ["added", "Date added", true],
        ["size", "File size", true],
        ["rank", "Rank", true],
        ["used", "Times used", true],
        ["last_used", "Last used", true],
        ["family", "Base model", false],
        ["algorithm", "Algorithm", false],
        ["random", "Random", false],
    ];
    lycopatch.CHOICES = ["folder", "kind", "family", "variant", "fit", "problem", "tag"];
    lycopatch.RANGES = ["rank", "size"];
    lycopatch.FLAGS = ["favourite", "used"];
    lycopatch.SIZES = { least: 110, most: 340, usual: 176 };

    const text = (value) => (typeof value === "string" ? value.slice(0, LONGEST) : "");
    const whole = (value, least, most, otherwise) =>
        Number.isFinite(value) ? Math.min(most, Math.max(least, Math.round(value))) : otherwise;
    const texts = (value) =>
        Array.isArray(value) ? [...new Set(value)].filter((each) => typeof each === "string" && each !== "" && each.length <= LONGEST_VALUE).slice(0, MOST_VALUES) : [];
    const record = (value) => (value && typeof value === "object" ? value : {});

    // Only what filters, in the form that the server takes: {"kind": {"include": […], "exclude": […]}, "rank": {"min": 4}, …}
    lycopatch.cleanFilters = function (value) {
        const filters = {};
        for (const name of lycopatch.CHOICES) {
            const include = texts(record(record(value)[name]).include);
            const exclude = texts(record(record(value)[name]).exclude).filter((each) => !include.includes(each));
            if (include.length || exclude.length) filters[name] = { include, exclude };
        }
        for (const name of lycopatch.RANGES) {
            const range = {};
            for (const end of ["min", "max"]) {
                const number = record(record(value)[name])[end];
                if (Number.isFinite(number) && number >= 0) range[end] = number;
            }
            if (Object.keys(range).length) filters[name] = range;
        }
        for (const name of lycopatch.FLAGS) {
            const flag = record(value)[name];
            if (typeof flag === "boolean") filters[name] = flag;
        }
        return filters;
    };

    function clean(value, place) {
        const kept = record(value);
        const { least, most, usual } = lycopatch.SIZES;
        return {
            search: text(kept.search),
            filters: lycopatch.cleanFilters(kept.filters),
            sort: lycopatch.ORDERS.some(([order]) => order === kept.sort) ? kept.sort : "name",
            descending: kept.descending === true,
            seed: whole(kept.seed, 0, 2 ** 31 - 1, 1),
            size: whole(kept.size, least, most, usual),
            list: kept.list === true,
            folders: typeof kept.folders === "boolean" ? kept.folders : place === "tab" && window.innerWidth > 900,
            drawer: kept.drawer === true,
            top: whole(kept.top, 0, 1e7, 0),
            target: whole(kept.target, 0, 20, 0),
        };
    }

    lycopatch.State = class {
        constructor(host, place) {
            this.key = `lycopatch.gallery.${host}.${place}`;
            let kept = null;
            try {
                kept = JSON.parse(localStorage.getItem(this.key));
            } catch (error) {
                kept = null; // damaged, or no storage in this browser: begin afresh
            }
            this.values = clean(kept, place);
            this.save = this.save.bind(this);
            this.saveSoon = lycopatch.dom.later(300, this.save);
            window.addEventListener("pagehide", this.save);
        }

        set(changes) {
            Object.assign(this.values, changes);
            this.saveSoon();
        }

        save() {
            try {
                localStorage.setItem(this.key, JSON.stringify(this.values));
            } catch (error) {
                this.saveSoon.stop(); // private browsing or a full store: the gallery works, it only forgets
            }
        }

        close() {
            this.saveSoon.stop();
            this.save();
            window.removeEventListener("pagehide", this.save);
        }
    };
})();
