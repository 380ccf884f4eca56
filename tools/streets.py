"""Class by class, what the street scenes of CamVid hold: the table of the chapter on street scenes. No picture leaves.

python tools/streets.py camvid nbs/course/more/camvid.csv     # a folder with codes.txt and trainannot"""
import csv, sys
from pathlib import Path
import numpy as np
from PIL import Image
from scipy import ndimage

def row(name, at:list) -> dict:
    "Share of pixels, share of pictures, areas of 20 pixels and more a picture, mean height (1: the top)"
    areas = [np.bincount(ndimage.label(o)[0].ravel())[1:] for o in at]
    ys = np.concatenate([np.nonzero(o)[0] for o in at])
    return dict(name=name, share=round(float(np.mean([o.mean() for o in at])), 5),
                pictures=round(float(np.mean([o.any() for o in at])), 3),
                areas=round(float(np.mean([(o >= 20).sum() for o in areas])), 2),
                height=round(float(1 - ys.mean()/len(at[0])), 3))

if __name__ == '__main__':
    folder, out = map(Path, sys.argv[1:])
    masks = [np.array(Image.open(o)) for o in sorted((folder/'trainannot').glob('*.png'))]
    rows = [row(name, [m == i for m in masks]) for i, name in enumerate((folder/'codes.txt').read_text().split())]
    with out.open('w', newline='') as f:
        table = csv.DictWriter(f, list(rows[0]), lineterminator='\n')
        table.writeheader()
        table.writerows(rows)
