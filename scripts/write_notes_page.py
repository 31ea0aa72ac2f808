"""Write docs/notes.md from the table of figures in jaxllm/notes/figures."""

import pathlib

from jaxllm.notes import page

if __name__ == "__main__":
    path = pathlib.Path(__file__).parents[1] / "docs" / "notes.md"
    path.write_text(page.notes_page(), encoding="utf-8")
    print(f"wrote {path}")
