// Ctrl+Enter (on a Mac also Cmd+Enter) in the prompt generates, as in the WebUI.
document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    if (!event.target.closest?.("#demo_prompt, #demo_negative")) return;
    event.preventDefault();
    document.querySelector("button#demo_run, #demo_run button")?.click();
});

// The extension's script begins as soon as the extension's tab is opened: gradio 6 makes it only then.
window.onUiLoaded = (begin) => {
    const waiting = setInterval(() => {
        if (!document.querySelector("#lycopatch_table")) return;
        clearInterval(waiting);
        begin();
    }, 300);
};
