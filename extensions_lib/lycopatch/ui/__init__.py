"""What people see, whatever the host: plain data → rows → escaped HTML, and ``tab`` that puts them into gradio."""
