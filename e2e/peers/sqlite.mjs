// Runs a statement on a SQLite file, as a program that knows nothing of Millrace: FILE STATEMENT.
import { DatabaseSync } from "node:sqlite";

const [file, statement] = process.argv.slice(2);
const db = new DatabaseSync(file);
db.exec("PRAGMA busy_timeout = 10000");
db.exec(statement);
db.close();
