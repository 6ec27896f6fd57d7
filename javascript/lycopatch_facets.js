// What values of a filter are called, and what a filter is in words.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});

    const KINDS = {
        lora: "LoRA", loha: "LoHa", lokr: "LoKr", dylora: "DyLoRA", glora: "GLoRA", dora: "DoRA", ia3: "(IA)³",
        full: "Full", norm: "Norm", oft: "OFT", boft: "BOFT",
    };
    const VARIANTS = { pony: "Pony", illustrious: "Illustrious", noobai: "NoobAI" };
    const FITS = { yes: "Fits", unknown: "Not known", no: "Another model", damaged: "Damaged" };
    const NAMES = {
        folder: "Folder", kind: "Algorithm", family: "Base model", variant: "Variant", fit: "Fit",
        problem: "Problem", tag: "Tag", rank: "Rank", size: "Size (MB)", favourite: "Favourite", used: "Used",
    };
    const MB = 1024 * 1024;

    const t = (...values) => lycopatch.words.t(...values);
    const families = new Map(); // as the server calls them: {sdxl: "SDXL"}

    lycopatch.facets = {
        name: (filter) => t(NAMES[filter]),

        title(filter, value) {
            if (filter === "kind") return KINDS[value] || value;
            if (filter === "variant") return VARIANTS[value] || value;
            if (filter === "family") return families.get(value) || value;
            if (filter === "fit" && FITS[value]) return t(FITS[value]);
            if (filter === "problem") return lycopatch.words.said(value);
            return String(value);
        },

        // Cards say how a family is called.
        learn(row) {
            if (row.family && row.family_title) families.set(row.family, row.family_title);
        },

        // For a small badge: "SD 1", "SDXL".
        shortened: (family) => (family || "").replace(/^Stable Diffusion\s+(?=XL)/, "SD").replace(/^Stable Diffusion\b/, "SD"),

        unit: (filter) => (filter === "size" ? MB : 1),

        range(filter, { min, max }) {
            const shown = (bound) => (filter === "size" ? lycopatch.words.size(bound) : lycopatch.words.number(bound));
            if (min === undefined) return `≤ ${shown(max)}`;
            if (max === undefined) return `≥ ${shown(min)}`;
            return min === max ? shown(min) : `${shown(min)} – ${shown(max)}`;
        },

        // include → exclude → neither
        cycled(filters, filter, value) {
            const { include = [], exclude = [] } = filters[filter] || {};
            const others = (values) => values.filter((each) => each !== value);
            const choice = include.includes(value)
                ? { include: others(include), exclude: [...exclude, value] }
                : exclude.includes(value)
                  ? { include, exclude: others(exclude) }
                  : { include: [...include, value], exclude };
            return lycopatch.cleanFilters({ ...filters, [filter]: choice });
        },

        without(filters, filter, value) {
            const { include = [], exclude = [] } = filters[filter] || {};
            const others = (values) => values.filter((each) => each !== value);
            return lycopatch.cleanFilters({ ...filters, [filter]: { include: others(include), exclude: others(exclude) } });
        },

        dropped(filters, filter) {
            const { [filter]: gone, ...rest } = filters;
            return rest;
        },

        // [{text, excluded, remove: filters without it}, …] of everything that filters
        active(filters) {
            const found = [];
            for (const [filter, set] of Object.entries(filters)) {
                const name = this.name(filter);
                if (typeof set === "boolean") {
                    found.push({ text: name, excluded: !set, remove: this.dropped(filters, filter) });
                } else if (lycopatch.RANGES.includes(filter)) {
                    found.push({ text: `${t(NAMES[filter]).replace(/ \(MB\)$/, "")}: ${this.range(filter, set)}`, excluded: false, remove: this.dropped(filters, filter) });
                } else {
                    for (const [values, excluded] of [[set.include, false], [set.exclude, true]]) {
                        for (const value of values) {
                            found.push({ text: `${name}: ${this.title(filter, value)}`, excluded, remove: this.without(filters, filter, value) });
                        }
                    }
                }
            }
            return found;
        },
    };
})();
