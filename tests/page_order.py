"""The order of an offline page: pictures first, then scores, settings folded."""

from __future__ import annotations

import re


def assert_pictures_first(page: str) -> None:
    """Check that a page begins with a picture, that no section has a picture below a table, and that settings are folded."""
    main = page[page.index("<main>") : page.index("</main>")]
    assert "<img" in main
    assert 0 < main.index("<img") < (main.index("<table") if "<table" in main else len(main))
    unfolded = re.sub(r"<details>.*?</details>", "<details></details>", main, flags=re.DOTALL)
    for section in re.split(r"<h[23]>", unfolded):
        *_, last_picture = [0, *(match.start() for match in re.finditer("<img", section))]
        below = [match.start() for match in re.finditer("<table|<details", section)]
        assert last_picture < min(below, default=len(section)), section[:80]
    assert not re.search(r"<th[^>]*>(setting|property|module)</th>", unfolded)
