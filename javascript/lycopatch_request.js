// Questions to the server. An error always carries a sentence that may be shown as it is.
(function () {
    "use strict";
    const lycopatch = (window.lycopatch = window.lycopatch || {});
    const PREFIX = "/lycopatch/ui";

    // Resolves to the answer's JSON. Rejects with AbortError, or with an Error that has a sentence and, from the server, a status.
    lycopatch.request = async function (context, method, path, body, signal) {
        let answer;
        try {
            answer = await fetch(`${context.base}/${path}`, {
                method,
                signal,
                headers: { "Content-Type": "application/json", "X-LycoPatch-Token": context.token },
                body: body === undefined || body === null ? undefined : JSON.stringify(body),
            });
        } catch (error) {
            if (error.name === "AbortError") throw error;
            throw new Error(lycopatch.words.t("The server does not answer. Is it still running?"));
        }
        let data = null;
        try {
            data = await answer.json();
        } catch (error) {
            if (error.name === "AbortError") throw error;
        }
        if (answer.ok && data !== null) return data;
        const told = data && typeof data.error === "string" ? data.error : null;
        const problem = new Error(told ? lycopatch.words.said(told) : lycopatch.words.t("The server answered with error {status}.", { status: answer.status }));
        problem.status = answer.status;
        throw problem;
    };

    // The address of a picture for <img> and <video>, with this page's token; null for an address that is not ours.
    lycopatch.address = function (context, url) {
        if (typeof url !== "string") return null;
        const start = url.startsWith(`${context.base}/`) ? context.base : PREFIX;
        if (!url.startsWith(`${start}/`)) return null;
        const whole = context.base + url.slice(start.length);
        if (/[?&]token=/.test(whole)) return whole;
        return `${whole}${whole.includes("?") ? "&" : "?"}token=${encodeURIComponent(context.token)}`;
    };
})();
