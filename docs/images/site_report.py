"""Makes site-report.png of the pictures in a site's own segmentation report. For phantoms only: no patient's image.

python docs/images/site_report.py runs/polyps/sites/phantom-hospital-3/state/runs/*/report-last.html
"""

from __future__ import annotations

import base64
import re
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

OUT = Path(__file__).with_name("site-report.png")
GAP = 10  # pixels between pictures
CASES = 3  # the first ones: missed, then the worst


def main(report: Path) -> None:
    """One column per case: outlines above, where the prompts look below."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', report.read_text(encoding="utf-8"))[: 2 * CASES]
    pictures = [Image.open(BytesIO(base64.b64decode(text))).convert("RGB") for text in found]
    width, height = pictures[0].size
    sheet = Image.new("RGB", ((width + GAP) * (len(pictures) // 2) - GAP, 2 * height + GAP), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place // 2 * (width + GAP), place % 2 * (height + GAP)))
    sheet = sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.Resampling.LANCZOS)
    few = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
