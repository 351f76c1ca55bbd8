ALTER TABLE devices ADD COLUMN advertised TEXT NOT NULL DEFAULT '[]'; -- JSON: what it offers to carry

ALTER TABLE devices ADD COLUMN rulings TEXT NOT NULL DEFAULT '[]';    -- JSON: what it may carry, and who says so
