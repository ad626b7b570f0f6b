CREATE TABLE cities (
  id         INTEGER PRIMARY KEY,  -- GeoNames id
  name       TEXT NOT NULL COLLATE NOCASE,
  country    TEXT NOT NULL,        -- ISO 3166-1 alpha-2
  admin      TEXT NOT NULL,        -- GeoNames code of the first-level division
  feature    TEXT NOT NULL,        -- GeoNames feature code, such as PPLC for a capital
  population INTEGER NOT NULL,     -- 0 where it is not known
  latitude   REAL NOT NULL,
  longitude  REAL NOT NULL
);

CREATE TABLE notes (
  id         INTEGER PRIMARY KEY,
  city_id    INTEGER NOT NULL REFERENCES cities (id),
  text       TEXT NOT NULL,
  created_at DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

CREATE INDEX notes_by_city ON notes (city_id);

-- References are checked only on connections that ask for it; a note on a city that does not exist is refused on all.
CREATE TRIGGER notes_need_a_city BEFORE INSERT ON notes
WHEN NOT EXISTS (SELECT 1 FROM cities WHERE id = NEW.city_id)
BEGIN
  SELECT RAISE(ABORT, 'no city has this id');
END;
