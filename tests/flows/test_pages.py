"""Pages: one file that needs nothing else, with every text escaped."""

import re

import pytest

from flows.pages.page import Plot, Section, Table, render_page, warning, write_text
from rnn_core.contracts.errors import ForecastError

PAGE = render_page(
    "Title <b>",
    "Lead & more",
    [
        Section("First", ["<script>alert(1)</script>"], [Table("Cap", ["model", "x"], [["a<b", "1.0"]])]),
        Section("Second", plots=[Plot('says "so"', "<svg><g/></svg>")]),
    ],
)


def test_text_is_escaped_and_plots_are_not():
    assert "Title &lt;b&gt;" in PAGE and "Lead &amp; more" in PAGE and "a&lt;b" in PAGE
    assert "<script>" not in PAGE and "&lt;script&gt;" in PAGE
    assert "<svg><g/></svg>" in PAGE and 'aria-label="says &#34;so&#34;"' in PAGE


def test_a_page_refers_to_nothing_outside_itself():
    assert not re.findall(r"https?://|src=|@import|<link", PAGE)
    assert all(f'href="#s{n}"' in PAGE and f'id="s{n}"' in PAGE for n in (1, 2))


def test_a_page_of_a_made_up_hospital_says_so_and_no_other(monkeypatch):
    monkeypatch.setenv("ICU_SOURCES__TRY__ADAPTER", "replay")
    assert warning("replay") == warning("try") == "Real stays replayed in a made-up hospital. "
    assert warning("clif") == warning("hospital") == ""


def test_a_file_is_written_whole_in_a_new_folder(tmp_path):
    write_text(tmp_path / "new" / "page.html", PAGE)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["page.html"]
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == PAGE


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ForecastError, match="cannot be written"):
        write_text(tmp_path / "file" / "page.html", PAGE)
