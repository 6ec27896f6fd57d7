// Ctrl+Enter (on a Mac also Cmd+Enter) in the prompt generates, as in the WebUI.
document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    if (!event.target.closest?.("#demo_prompt, #demo_negative")) return;
    event.preventDefault();
    document.querySelector("button#demo_run, #demo_run button")?.click();
});

// The script of the last picture's report begins as soon as that is there: gradio 6 makes a tab when it is opened.
window.onUiLoaded = (begin) => {
    const waiting = setInterval(() => {
        if (!document.querySelector("#lycopatch_report")) return;
        clearInterval(waiting);
        begin();
    }, 300);
};
