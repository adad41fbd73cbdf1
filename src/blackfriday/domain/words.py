"""Word lists the seed data is made of: plain nouns and adjectives, so that searches find a believable share of names."""

from __future__ import annotations

BRANDS = (
    "Alder Birch Cobalt Dunmore Elmwood Fenwick Garland Harbour Ingram Juniper Kestrel Larkin Marlow Norden Oakley "
    "Pembroke Quarry Rowan Sterling Thornton Umber Valley Westbrook Yarrow Zephyr"
).split()

QUALITIES = (
    "Compact Folding Wireless Brushed Insulated Quiet Heavy Slim Double Portable Ceramic Bamboo Copper Steel Glass "
    "Leather Cotton Woollen Waterproof Rugged Classic Modern Soft Bright Matte Round Square Travel Outdoor Everyday"
).split()

THINGS = (
    "Kettle Lantern Backpack Blender Bookcase Camera Chair Clock Coat Cooler Cushion Desk Drill Duvet Fan Flask "
    "Freezer Grill Guitar Hammer Headset Helmet Jacket Keyboard Kite Ladder Lamp Mattress Microphone Mirror Mixer "
    "Monitor Mug Notebook Oven Pan Parasol Printer Projector Pump Radio Racket Rucksack Rug Saddle Saw Scale Scarf "
    "Scooter Shelf Shoe Skillet Sofa Speaker Stool Suitcase Table Tent Toaster Torch Towel Tripod Trolley Vase Wallet"
).split()

AISLES = (
    "Home Garden Kitchen Office Outdoors Fitness Music Tools Toys Travel Lighting Bedding Bathroom Storage Cameras "
    "Audio Cycling Camping Crafts Heating Cooling Cookware Tableware Luggage Clothing Footwear Knitwear Furniture "
    "Stationery Gaming"
).split()

FIRST_NAMES = (
    "Ada Ben Clara David Edith Felix Grace Henry Iris Jonas Karin Leo Mara Niels Olive Peter Quinn Rosa Simon Tilda "
    "Ursula Victor Wanda Xenia Yusuf Zoe"
).split()

LAST_NAMES = (
    "Abbott Baker Carver Dyer Eastman Fletcher Gardner Hooper Iverson Joiner Keller Lindgren Mason Nash Osborne "
    "Potter Quigley Reeve Sawyer Tanner Underwood Vance Weaver Yates Ziegler"
).split()

SENTENCES = (
    "Made to be used every day and to be repaired when it wears.",
    "The finish keeps its colour in sun and rain.",
    "It folds flat, so that a small flat has room for it.",
    "All parts can be taken apart without a tool.",
    "The handle stays cool and the base stands firm.",
    "Tested for ten years of ordinary use.",
    "Comes with a spare set of the parts that are lost first.",
    "Light enough to carry and heavy enough to stay where it is put.",
    "The packing is paper and can go where paper goes.",
    "Fits the whole range, old and new.",
)

OPINIONS = (
    ("Does the job", "It does what it says and I have stopped thinking about it, which is praise."),
    ("Better than expected", "I bought the cheap one first. I should have bought this one first."),
    ("Not for me", "Good workmanship, but smaller than the picture made me believe."),
    ("Bought a second", "One for us, one for my sister. Both still work."),
    ("Arrived late", "The thing is fine. It took nine days to get here."),
    ("A gift", "The recipient was pleased, and so was I."),
    ("Sturdy", "It fell down the stairs and only the stairs show it."),
    ("Broke once", "A hinge broke in the second month; the spare part came within two days."),
)
