// The folders on the left, with how many networks are in each and below. A click shows only those.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const t = (...values) => lycopatch.words.t(...values);

    // [["Lora/styles/ink", 3], …], each folder's own count → the roots of a tree of {path, name, count, children}
    function grow(counts) {
        const roots = new Map();
        for (const [path, count] of counts) {
            let level = roots;
            let so = "";
            for (const name of path.split("/")) {
                so = so ? `${so}/${name}` : name;
                if (!level.has(name)) level.set(name, { path: so, name, count: 0, children: new Map() });
                const node = level.get(name);
                node.count += count;
                level = node.children;
            }
        }
        return [...roots.values()];
    }

    const byName = (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true });

    lycopatch.Folders = class {
        constructor(gallery) {
            this.gallery = gallery;
            this.roots = [];
            this.open = new Set();
            this.known = false;
            this.tree = lycopatch.dom.make("ul", { role: "tree", "aria-label": t("Folders"), onkeydown: (event) => this.press(event) });
            this.element = lycopatch.dom.make("nav", { class: "lycopatch-folders", "aria-label": t("Folders") }, this.tree);
        }

        get chosen() {
            return this.gallery.state.values.filters.folder || { include: [], exclude: [] };
        }

        show(counts) {
            this.roots = grow(counts).sort(byName);
            if (!this.known) this.roots.forEach((root) => this.open.add(root.path));
            if (!this.known) this.chosen.include.forEach((path) => this.unfold(path));
            this.known = true;
            this.draw();
        }

        unfold(path) {
            const parts = path.split("/");
            for (let length = 1; length < parts.length; length += 1) this.open.add(parts.slice(0, length).join("/"));
        }

        draw() {
            this.element.hidden = !this.gallery.state.values.folders;
            if (this.element.hidden || !this.known) return;
            const { activeElement } = document;
            const focused = this.tree.contains(activeElement) ? activeElement.dataset.path : null;
            const all = { path: "", name: t("All folders"), count: this.roots.reduce((sum, root) => sum + root.count, 0), children: new Map() };
            this.tree.replaceChildren(this.item(all, 1), ...this.roots.map((root) => this.item(root, 1)));
            const items = this.items();
            (items.find((item) => item.dataset.path === focused) || items.find((item) => item.getAttribute("aria-selected") === "true") || items[0]).tabIndex = 0;
            if (focused !== null) items.find((item) => item.tabIndex === 0).focus({ preventScroll: true });
        }

        item(node, level) {
            const { make } = lycopatch.dom;
            const { include, exclude } = this.chosen;
            const folded = node.children.size > 0 ? this.open.has(node.path) : null;
            const selected = node.path === "" ? include.length === 0 : include.includes(node.path);
            const left = exclude.includes(node.path);
            const line = make(
                "div",
                { class: "lycopatch-folder", style: `--lycopatch-level: ${level - 1}`, "data-left": String(left) },
                make("span", { class: "lycopatch-folder-fold", "aria-hidden": "true", onclick: (event) => this.fold(event, node) }, folded === null ? "" : folded ? "▾" : "▸"),
                make("span", { class: "lycopatch-folder-name", title: node.path || node.name }, node.name),
                make("small", {}, lycopatch.words.number(node.count)),
                node.path ? this.leaveOut(node, left) : null,
            );
            const attributes = { role: "treeitem", tabindex: "-1", "data-path": node.path, "aria-level": level, "aria-selected": String(selected), "aria-expanded": folded === null ? null : String(folded) };
            const item = make("li", attributes, line);
            item.setAttribute("aria-label", `${node.name}, ${lycopatch.words.number(node.count)}${left ? `, ${t("left out")}` : ""}`);
            line.addEventListener("click", () => this.choose(node.path));
            if (folded) {
                const children = [...node.children.values()].sort(byName).map((child) => this.item(child, level + 1));
                item.append(make("ul", { role: "group" }, children));
            }
            return item;
        }

        leaveOut(node, left) {
            const label = left ? t("Show this folder again") : t("Leave this folder out");
            const act = (event) => {
                event.stopPropagation();
                const { include, exclude } = this.chosen;
                const others = (paths) => paths.filter((path) => path !== node.path);
                this.pick({ include: others(include), exclude: left ? others(exclude) : [...exclude, node.path] });
            };
            return lycopatch.dom.make("button", { type: "button", tabindex: "-1", class: "lycopatch-folder-leave", title: label, "aria-label": label, onclick: act }, left ? "+" : "−");
        }

        fold(event, node) {
            event.stopPropagation();
            if (!this.open.delete(node.path)) this.open.add(node.path);
            this.draw();
        }

        choose(path) {
            const same = this.chosen.include.length === 1 && this.chosen.include[0] === path;
            this.pick({ include: path === "" || same ? [] : [path], exclude: this.chosen.exclude.filter((each) => each !== path) });
        }

        pick(folder) {
            if (this.gallery.narrow) this.gallery.state.set({ folders: false }); // it lies over the cards there
            this.gallery.change({ filters: lycopatch.cleanFilters({ ...this.gallery.state.values.filters, folder }) });
        }

        items() {
            return [...this.tree.querySelectorAll('[role="treeitem"]')];
        }

        press(event) {
            const item = event.target.closest('[role="treeitem"]');
            if (!item || event.target !== item) return;
            const items = this.items();
            const position = items.indexOf(item);
            const expanded = item.getAttribute("aria-expanded");
            const moves = { ArrowDown: position + 1, ArrowUp: position - 1, Home: 0, End: items.length - 1 };
            let next = items[moves[event.key]];
            if (event.key === "Enter" || event.key === " ") this.choose(item.dataset.path);
            else if ((event.key === "ArrowRight" && expanded === "false") || (event.key === "ArrowLeft" && expanded === "true")) {
                if (!this.open.delete(item.dataset.path)) this.open.add(item.dataset.path);
                this.draw();
            } else if (event.key === "ArrowRight" && expanded === "true") next = items[position + 1];
            else if (event.key === "ArrowLeft") next = item.parentNode.closest('[role="treeitem"]');
            else if (!(event.key in moves)) return;
            event.preventDefault();
            event.stopPropagation();
            if (!next) return;
            item.tabIndex = -1;
            next.tabIndex = 0;
            next.focus();
        }
    };
})();
