"""The paper's own values (Esser, Rombach, Ommer 2021, third version on arXiv), for the tables that are made here."""

from table import Published

TABLE1 = Published(
    "Table 1 of the paper: held-out nats/token on codes of 16 x 16 cells. PixelSNAIL trained twice as fast. Restricted "
    "ImageNet (RIN), LSUN churches and towers, ImageNet (IN), RIN by depth maps, landscapes (S-FLCKR) by label maps.",
    ("data, parameters", "transformer, PixelSNAIL's steps", "transformer, PixelSNAIL's time", "PixelSNAIL"),
    (
        ("RIN, 85 M", "4.78", "4.84", "4.96"),
        ("LSUN-CT, 310 M", "4.63", "4.69", "4.89"),
        ("IN, 310 M", "4.78", "4.83", "4.96"),
        ("D-RIN, 180 M", "4.70", "4.78", "4.88"),
        ("S-FLCKR, 310 M", "4.49", "4.57", "4.64"),
    ),
)
TABLE2 = Published(
    "Table 2 of the paper: FID of pictures of 256 x 256 from the label maps of the validation splits, top-k 100.",
    ("data", "the paper", "SPADE", "SPADE, by the paper's protocol"),
    (("COCO-Stuff", "22.4", "22.6", "23.9"), ("ADE20K", "35.5", "33.9", "35.7")),
)
TABLE4 = Published(
    "Table 4 of the paper: 50,000 samples of 256 x 256 against the training split of ImageNet; mixed top-k, top-p 1; "
    "the classifier of the rejection is a ResNet-101.",
    ("acceptance rate", "FID", "inception score"),
    (
        ("1", "17.04", "70.6 ± 1.8"),
        ("0.5", "10.26", "125.5 ± 2.4"),
        ("0.25", "7.35", "188.6 ± 3.3"),
        ("0.05", "5.88", "304.8 ± 3.6"),
        ("0.005", "6.59", "402.7 ± 2.9"),
        ("validation data", "1.62", "234.0 ± 3.9"),
    ),
)
TABLE5 = Published(
    "Table 5 of the paper: FID between the reconstructed validation split of ImageNet and the original validation and "
    "training splits.",
    ("codec", "codes", "K", "FID, validation", "FID, training"),
    (
        ("VQ-VAE-2", "64 x 64 and 32 x 32", "512", "", "about 10"),
        ("DALL-E's dVAE", "32 x 32", "8,192", "32.01", "33.88"),
        ("VQGAN", "16 x 16", "1,024", "7.94", "10.54"),
        ("VQGAN", "16 x 16", "16,384", "4.98", "7.41"),
        ("VQGAN, Gumbel", "32 x 32", "8,192", "1.49", "3.24"),
        ("VQGAN", "64 x 64 and 32 x 32", "512", "1.45", "2.78"),
    ),
)
FIGURE7 = Published(
    "Figure 7 of the paper: FacesHQ (CelebA-HQ and FFHQ), windows of 16 x 16 codes, temperature 1, top-k 100. At "
    "f = 1, a sample takes 7,258 seconds on a GTX Titan X.",
    ("f", "times as fast as f = 1"),
    (("1", "1.0"), ("2", "3.86"), ("8", "65.81"), ("16", "280.68")),
)
