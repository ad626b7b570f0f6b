// Calls the tool args[0] with the arguments args[1] and prints the progress that it was told.
import { args, connect, print } from './connect.mjs';

const client = await connect();
const progress = [];
const result = await client.callTool(
    { name: args[0], arguments: JSON.parse(args[1]) },
    { onprogress: told => progress.push(told.progress), timeout: 60000 }
);
print({ progress, isError: result.isError ?? false, rows: result.structuredContent?.rows?.length });
await client.close();
