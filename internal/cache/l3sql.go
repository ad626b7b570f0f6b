package cache

// Dialect tells how a database writes what not all write alike.
type Dialect uint8

// The databases that L3 may be in.
const (
	SQLite Dialect = iota
	PostgreSQL
)

// The tables of L3. What is kept for a call is one JSON text, whose form is stored's; the other columns are for the
// database: when it was born and expires in milliseconds since 1970, its size, and how often it was asked for.
const (
	createEntries = `CREATE TABLE IF NOT EXISTS millrace_cache (key text PRIMARY KEY, born bigint NOT NULL, expires bigint NOT NULL,
		bytes bigint NOT NULL, hits bigint NOT NULL, entry text NOT NULL)`
	createIndex = `CREATE INDEX IF NOT EXISTS millrace_cache_expires ON millrace_cache (expires)`
	createTags  = `CREATE TABLE IF NOT EXISTS millrace_cache_tags (stripe integer PRIMARY KEY, version bigint NOT NULL)`
)

// statements are L3's, by dialect. Lists travel as one JSON text each, so that the statement is the same for any number.
var statements = map[Dialect]struct{ get, put, raise, count string }{
	SQLite: {
		get: `SELECT (SELECT entry FROM millrace_cache WHERE key = :key AND expires > :now) AS entry,
			(SELECT group_concat(v.stripe || ':' || v.version) FROM json_each(:stripes) AS asked
				CROSS JOIN millrace_cache_tags AS v ON v.stripe = asked.value) AS versions`, // not IN, which makes a table of the list each time
		put: `INSERT INTO millrace_cache (key, entry, born, expires, bytes, hits)
			SELECT value ->> 'key', value ->> 'entry', value ->> 'born', value ->> 'expires', length(CAST(value ->> 'entry' AS BLOB)), 0 FROM json_each(:entries) WHERE true
			ON CONFLICT (key) DO UPDATE SET entry = excluded.entry, born = excluded.born, expires = excluded.expires, bytes = excluded.bytes
			WHERE excluded.born >= millrace_cache.born`,
		raise: `INSERT INTO millrace_cache_tags (stripe, version) SELECT value ->> 0, value ->> 1 FROM json_each(:marks) WHERE true
			ON CONFLICT (stripe) DO UPDATE SET version = max(millrace_cache_tags.version + 1, excluded.version) RETURNING stripe, version`,
		count: `UPDATE millrace_cache SET hits = hits + (e.value ->> 1) FROM json_each(:hits) AS e WHERE millrace_cache.key = e.value ->> 0`,
	},
	PostgreSQL: {
		get: `SELECT (SELECT entry FROM millrace_cache WHERE key = :key AND expires > :now) AS entry,
			(SELECT string_agg(stripe || ':' || version, ',') FROM millrace_cache_tags
				WHERE stripe IN (SELECT CAST(jsonb_array_elements_text(CAST(:stripes AS jsonb)) AS integer))) AS versions`,
		put: `INSERT INTO millrace_cache (key, entry, born, expires, bytes, hits)
			SELECT key, entry, born, expires, octet_length(entry), 0
			FROM jsonb_to_recordset(CAST(:entries AS jsonb)) AS e(key text, entry text, born bigint, expires bigint)
			ON CONFLICT (key) DO UPDATE SET entry = excluded.entry, born = excluded.born, expires = excluded.expires, bytes = excluded.bytes
			WHERE excluded.born >= millrace_cache.born`,
		raise: `INSERT INTO millrace_cache_tags (stripe, version)
			SELECT CAST(e ->> 0 AS integer), CAST(e ->> 1 AS bigint) FROM jsonb_array_elements(CAST(:marks AS jsonb)) AS e
			ON CONFLICT (stripe) DO UPDATE SET version = GREATEST(millrace_cache_tags.version + 1, excluded.version) RETURNING stripe, version`,
		count: `UPDATE millrace_cache AS c SET hits = c.hits + CAST(e ->> 1 AS bigint)
			FROM jsonb_array_elements(CAST(:hits AS jsonb)) AS e WHERE c.key = e ->> 0`,
	},
}

// What every database writes alike.
const (
	selectVersions = `SELECT stripe, version FROM millrace_cache_tags`
	selectHottest  = `SELECT entry FROM millrace_cache WHERE expires > :now ORDER BY hits DESC, born DESC LIMIT :most`
	halveHits      = `UPDATE millrace_cache SET hits = hits / 2 WHERE hits > 0`
	deleteExpired  = `DELETE FROM millrace_cache WHERE key IN (SELECT key FROM millrace_cache WHERE expires <= :now LIMIT :most)`
	deleteCold     = `DELETE FROM millrace_cache WHERE key IN (SELECT key FROM
		(SELECT key, sum(bytes) OVER (ORDER BY hits DESC, born DESC, key) AS total FROM millrace_cache) AS sizes WHERE total > :most)`
	selectSize = `SELECT count(*) AS entries, coalesce(sum(bytes), 0) AS bytes FROM millrace_cache`
)
