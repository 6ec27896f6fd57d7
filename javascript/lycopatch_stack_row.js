// One row of the stack: on/off, solo, the network, its weight as a slider and a number, text encoder and U-Net apart.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const t = (...all) => lycopatch.words.t(...all);
    const STEP = 0.05;

    lycopatch.StackRow = class {
        constructor(stack, key) {
            const { make, iconButton } = lycopatch.dom;
            this.stack = stack;
            this.key = key;
            this.power = make("button", {
                type: "button",
                class: "lycopatch-switch",
                role: "switch",
                onclick: () => this.flip(),
            });
            this.soloButton = make(
                "button",
                { type: "button", class: "lycopatch-tool lycopatch-solo", onclick: () => stack.solo(this.row, this.alone) },
                t("Solo"),
            );
            this.picture = make("img", { alt: "", decoding: "async" });
            this.picture.addEventListener("error", () => (this.picture.hidden = true));
            this.fit = make("span", { role: "img" });
            this.name = make("button", {
                type: "button",
                class: "lycopatch-stack-name",
                onclick: () => lycopatch.openDetails(stack.context, this.row.id, this.name),
            });
            this.label = make("span", { class: "lycopatch-mark" });
            this.family = make("span", { class: "lycopatch-mark" });
            this.split = iconButton("split", "", () => stack.edit(this.row, this.row.split ? "join" : "split"));
            this.remove = iconButton("close", "", () => stack.edit(this.row, "remove"));
            this.both = new Weight(this, "weight", "");
            this.te = new Weight(this, "te", "TE");
            this.unet = new Weight(this, "unet", "U-Net");
            this.issues = make("ul", { class: "lycopatch-stack-issues" });
            this.element = make(
                "li",
                { class: "lycopatch-stack-row" },
                this.power,
                make("div", { class: "lycopatch-stack-picture" }, this.picture),
                make("div", { class: "lycopatch-stack-title" }, this.fit, this.name, this.label, this.family),
                make("div", { class: "lycopatch-stack-weights" }, this.both.element, this.te.element, this.unet.element),
                make("div", { class: "lycopatch-stack-tools" }, this.soloButton, this.split, this.remove),
                this.issues,
            );
        }

        show(row, rows) {
            const before = this.row;
            this.row = row;
            if (before && JSON.stringify([before, this.others]) === JSON.stringify([row, othersOff(row, rows)])) return;
            this.others = othersOff(row, rows);
            this.alone = !row.off && rows.length > 1 && this.others;
            const usable = row.editable !== false;
            const title = row.name || row.tag;
            this.element.classList.toggle("lycopatch-off", row.off);
            set(this.power, {
                "aria-checked": String(!row.off),
                "aria-label": t("{name}: on or off", { name: title }),
                title: row.off ? t("Switch on") : t("Switch off (weight 0)"),
            });
            set(this.soloButton, {
                "aria-pressed": String(this.alone),
                title: this.alone ? t("All others back as they were") : t("Only this one; all others get weight 0"),
            });
            set(this.split, { "aria-pressed": String(row.split), "aria-label": this.splitText(), title: this.splitText() });
            set(this.remove, {
                "aria-label": t("Remove {name} from the prompt", { name: title }),
                title: t("Remove from the prompt"),
            });
            this.power.disabled = this.split.disabled = !usable;
            this.soloButton.hidden = !usable || rows.length < 2;
            this.showFit(row);
            this.showPicture(row);
            text(this.name, title);
            set(this.name, { title: row.id ? t("Details of {tag}", { tag: row.tag }) : row.tag });
            this.name.disabled = !row.id;
            text(this.label, row.label || "");
            text(this.family, row.family_title || "");
            this.both.show(row.unet, row.range, usable && !row.split, title);
            this.te.show(row.te, row.range, usable && row.split, title);
            this.unet.show(row.unet, row.range, usable && row.split, title);
            this.showIssues(row.issues || []);
        }

        splitText() {
            return this.row.split ? t("One weight for both") : t("Text encoder and U-Net apart");
        }

        showFit({ fit, reason }) {
            const mark = lycopatch.dom.fitMark(fit, lycopatch.words.said(reason));
            text(this.fit, mark.textContent);
            set(this.fit, { class: mark.className, title: mark.title, "aria-label": mark.getAttribute("aria-label") });
        }

        showPicture(row) {
            const address = lycopatch.address(this.stack.context, row.preview);
            this.picture.hidden = !address;
            if (address && this.picture.getAttribute("src") !== address) this.picture.src = address;
        }

        showIssues(issues) {
            const wanted = issues.join("\n");
            if (this.shownIssues === wanted) return;
            this.shownIssues = wanted;
            this.issues.hidden = issues.length === 0;
            this.issues.replaceChildren(...issues.map((issue) => lycopatch.dom.make("li", {}, lycopatch.words.said(issue))));
        }

        flip() {
            if (this.row.off) this.stack.switchOn(this.row);
            else this.stack.switchOff(this.row);
        }
    };

    // A slider and a number box for one number.
    class Weight {
        constructor(owner, action, label) {
            const { make } = lycopatch.dom;
            this.owner = owner;
            this.action = action;
            this.label = label;
            this.slider = make("input", { type: "range", step: STEP, oninput: () => this.send(this.slider.valueAsNumber) });
            this.box = make("input", {
                type: "number",
                step: STEP,
                oninput: () => this.send(this.box.valueAsNumber),
                onblur: () => this.write(this.value),
            });
            this.element = make(
                "div",
                { class: `lycopatch-weight${label ? " lycopatch-weight-of-part" : ""}` },
                label && make("span", { class: "lycopatch-weight-label" }, label),
                this.slider,
                this.box,
            );
            this.element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
        }

        show(value, range, visible, name) {
            this.element.hidden = !visible;
            if (!visible) return;
            const [low, high] = range;
            if (this.slider.min !== String(low)) this.slider.min = low;
            if (this.slider.max !== String(high)) this.slider.max = high;
            const label = [t("Weight of {name}", { name }), this.label].filter(Boolean).join(", ");
            set(this.slider, { "aria-label": label });
            set(this.box, { "aria-label": label });
            // The hand on it is ahead of the answer: what it holds is newer.
            if (this.sending) return;
            this.write(value);
        }

        write(value) {
            this.value = value;
            if (document.activeElement !== this.box) this.box.value = value;
            else if (this.box.valueAsNumber !== value) this.box.value = value;
            this.slider.value = value;
            this.fillSlider();
        }

        // How much of the slider is coloured: from 0 to where it stands.
        fillSlider() {
            const { min, max, value } = this.slider;
            const at = (number) => ((Math.min(max, Math.max(min, number)) - min) / (max - min)) * 100;
            const [from, to] = [at(0), at(value)].sort((a, b) => a - b);
            this.slider.style.setProperty("--from", `${from}%`);
            this.slider.style.setProperty("--to", `${to}%`);
        }

        async send(value) {
            if (!Number.isFinite(value)) return; // half a number: "-" or nothing yet
            this.value = value;
            if (document.activeElement !== this.box) this.box.value = value;
            this.slider.value = value;
            this.fillSlider();
            const turn = (this.sending = {});
            await this.owner.stack.edit(this.owner.row, this.action, value);
            if (this.sending !== turn) return;
            this.sending = null;
            this.write(this.action === "te" ? this.owner.row.te : this.owner.row.unet);
        }

        wheel(event) {
            if (event.ctrlKey || event.deltaY === 0) return;
            event.preventDefault();
            const [low, high] = this.owner.row.range;
            const value = lycopatch.stackStep(this.value, event.deltaY < 0 ? STEP : -STEP);
            this.send(Math.min(high, Math.max(low, value)));
        }
    }

    const othersOff = (row, rows) => rows.every((other) => other.index === row.index || other.off || other.editable === false);

    // Only what differs: the WebUI runs code of every extension at each change of the page.
    function text(element, wanted) {
        element.hidden = wanted === "";
        if (element.textContent !== wanted) element.textContent = wanted;
    }

    function set(element, attributes) {
        for (const [name, value] of Object.entries(attributes)) {
            if (element.getAttribute(name) !== value) element.setAttribute(name, value);
        }
    }
})();
