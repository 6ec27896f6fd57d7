// The networks of the prompt as rows. The prompt's text is the truth: each change is made by the server in the text, and
// the rows follow the text, also when somebody types in it. A network is off when its weights are 0.
(function () {
    "use strict";

    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const t = (...all) => lycopatch.words.t(...all);
    const LOOK_MS = 250; // between the last key in the prompt and the rows
    const STEP = 0.05;

    // What a network had before it was switched off, for as long as the browser's tab lives.
    const formerKey = (context, name) => `lycopatch.former.${context.host}.${name}`;
    const former = (context, row) => lycopatch.dom.recall(sessionStorage, formerKey(context, row.name), null);
    const noteFormer = (context, { name, te, unet, split }) =>
        lycopatch.dom.remember(sessionStorage, formerKey(context, name), { te, unet, split });
    const isOn = (row) => !row.off && row.editable !== false;

    const rounded = (number) => Math.round(number * 1000) / 1000;
    const stepped = (number, delta) => rounded(Math.round((number + delta) / STEP) * STEP);

    // Questions and changes of one prompt, one after the other. Of changes of one number that wait, only the last is made.
    class Desk {
        constructor(context) {
            this.context = context;
            this.waiting = new Map();
            this.running = null;
        }

        edit(key, change) {
            this.waiting.delete(key);
            this.waiting.set(key, change);
            this.running = this.running || this.work().finally(() => (this.running = null));
            return this.running;
        }

        async work() {
            let answer = null;
            try {
                while (this.waiting.size > 0) {
                    const [key, change] = this.waiting.entries().next().value;
                    this.waiting.delete(key);
                    answer = (await this.make(change)) || answer;
                }
            } catch (error) {
                this.waiting.clear(); // they were meant for rows that are no longer so
                throw error;
            }
            return answer;
        }

        // {index, action, value} in the prompt as it is now; when somebody types meanwhile, what he typed wins.
        async make(change) {
            const prompt = this.context.promptOf();
            const answer = await lycopatch.request(this.context, "POST", "stack/edit", { prompt, ...change });
            if (this.context.promptOf() !== prompt) return null;
            this.onAnswer?.(answer);
            this.context.setPrompt(answer.prompt);
            return answer;
        }
    }

    const desks = new WeakMap();

    function deskOf(context) {
        if (!desks.has(context)) desks.set(context, new Desk(context));
        return desks.get(context);
    }

    class Stack {
        constructor(context, element) {
            const { make, later } = lycopatch.dom;
            this.context = context;
            this.desk = deskOf(context);
            this.rows = new Map(); // name and how many of that name came before → Row
            this.known = null; // the prompt that the rows are of
            this.list = make("ol", { class: "lycopatch-stack-rows", "aria-label": t("Networks in the prompt") });
            this.notice = make("div", { class: "lycopatch-stack-notice", role: "status" });
            this.empty = make(
                "p",
                { class: "lycopatch-quiet", hidden: true },
                t("No network is in the prompt. Click a card, or write <lora:name:1>."),
            );
            this.element = make(
                "section",
                { class: "lycopatch-panel lycopatch-stack-panel", "aria-label": t("Networks in the prompt") },
                this.empty,
                this.list,
                this.notice,
            );
            element.append(this.element);
            this.soon = later(LOOK_MS, () => this.look());
            this.end = context.onPrompt(() => this.changed());
            this.blind = lycopatch.dom.onSight(this.element, () => this.changed());
            this.desk.onAnswer = (answer) => this.take(answer, answer.prompt);
        }

        destroy() {
            this.end?.();
            this.blind();
            this.soon.stop();
            this.flight?.abort();
            this.desk.onAnswer = null;
            this.element.remove();
        }

        // A stack on a page that is not shown waits until it is.
        changed() {
            if (this.context.promptOf() !== this.known && lycopatch.dom.inSight(this.element)) this.soon();
        }

        async look() {
            this.flight?.abort();
            const flight = (this.flight = new AbortController());
            const prompt = this.context.promptOf();
            try {
                const answer = await lycopatch.request(
                    this.context,
                    "POST",
                    "stack",
                    { prompt, negative: this.context.negativeOf?.() ?? "" },
                    flight.signal,
                );
                if (flight.signal.aborted || this.context.promptOf() !== prompt) return;
                this.take(answer, prompt);
            } catch (error) {
                if (!flight.signal.aborted) this.fail(error);
            }
        }

        take(answer, prompt) {
            this.known = prompt;
            this.show(answer.rows);
            if (answer.issues) this.say(answer.issues);
        }

        say(sentences) {
            const text = sentences.join("\n");
            if (this.said === text) return;
            this.said = text;
            this.notice.replaceChildren(
                ...sentences.map((sentence) =>
                    lycopatch.dom.make("p", { class: "lycopatch-says" }, lycopatch.words.said(sentence)),
                ),
            );
        }

        fail(error) {
            this.said = null;
            this.notice.replaceChildren(
                lycopatch.dom.failure(error.message, () => {
                    this.said = null;
                    this.notice.replaceChildren();
                    this.look();
                }),
            );
        }

        // Rows that stay keep their elements, so that the focus and a slider under the mouse stay too.
        show(rows) {
            const counts = new Map();
            const wanted = new Map();
            for (const row of rows) {
                const count = counts.get(row.name) || 0;
                counts.set(row.name, count + 1);
                const key = `${count} ${row.name}`;
                const shown = this.rows.get(key) || new lycopatch.StackRow(this, key);
                wanted.set(key, shown);
                shown.show(row, rows);
            }
            for (const [key, row] of this.rows) if (!wanted.has(key)) row.element.remove();
            let place = this.list.firstElementChild;
            for (const { element } of wanted.values()) {
                if (element === place) place = place.nextElementSibling;
                else this.list.insertBefore(element, place);
            }
            this.rows = wanted;
            this.empty.hidden = rows.length > 0;
            this.list.hidden = rows.length === 0;
        }

        async edit(row, action, value) {
            try {
                const answer = await this.desk.edit(`${row.index} ${action}`, { index: row.index, action, value });
                if (this.said === null) this.say([]);
                if (!answer) this.soon();
                return answer;
            } catch (error) {
                this.fail(error);
                return null;
            }
        }

        async switchOff(row) {
            noteFormer(this.context, row);
            await this.edit(row, "weight", 0);
        }

        async switchOn(row) {
            const before = former(this.context, row) || { te: row.weight ?? 1, unet: row.weight ?? 1, split: false };
            if (!before.split && before.te === before.unet) return this.edit(row, "weight", before.te);
            await this.edit(row, "te", before.te);
            return this.edit(row, "unet", before.unet);
        }

        // Alone, or all others back as they were.
        async solo(row, alone) {
            const others = [...this.rows.values()].map((each) => each.row).filter((each) => each.index !== row.index);
            if (alone) {
                for (const other of others) if (other.off && other.editable !== false) await this.switchOn(other);
                return;
            }
            if (row.off) await this.switchOn(row);
            for (const other of others) if (isOn(other)) noteFormer(this.context, other);
            await this.edit(row, "solo");
        }
    }

    lycopatch.mountStack = (context, element) => new Stack(context, element);

    // The weight of a network by a step, wherever its tag is in the prompt; resolves to the new weight, null without a tag.
    lycopatch.stackEdit = async function (context, id, delta) {
        const turns = (context.stackTurns = context.stackTurns || new Map());
        turns.set(id, (turns.get(id) || 0) + delta);
        if (turns.size > 1 || turns.get(id) !== delta) return null; // the one that is under way takes it along
        try {
            let weight = null;
            while (turns.has(id)) {
                const prompt = context.promptOf();
                const { rows } = await lycopatch.request(context, "POST", "stack", { prompt, negative: "" });
                const row = rows.find((each) => each.id === id && each.editable !== false);
                const step = turns.get(id);
                turns.delete(id);
                if (!row) return null;
                if (context.promptOf() !== prompt) continue;
                const answer = await deskOf(context).edit(`${row.index} wheel`, wheel(row, step));
                weight = answer?.rows[row.index]?.unet ?? weight;
            }
            return weight;
        } finally {
            turns.delete(id);
        }
    };

    // Both weights of a split network would become one; so the wheel moves its U-Net's.
    function wheel(row, step) {
        const [low, high] = row.range;
        const value = Math.min(high, Math.max(low, stepped(row.unet, step)));
        return { index: row.index, action: row.split ? "unet" : "weight", value };
    }

    lycopatch.stackStep = stepped;
})();
