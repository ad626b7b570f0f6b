// Connects the TypeScript client. argv: where (a URL, or a command as a JSON array), how (legacy, auto, or sse for the
// HTTP+SSE transport of 2024-11-05), then what the script itself takes. Scripts print one JSON value a line.
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

export const [where, how, ...args] = process.argv.slice(2);

export const print = value => process.stdout.write(JSON.stringify(value) + '\n');

export async function connect({ answer, ...options } = {}) {
    const client = new Client(
        { name: 'e2e-typescript', version: '1' },
        {
            capabilities: answer ? { elicitation: {} } : {},
            versionNegotiation: { mode: how === 'auto' ? 'auto' : 'legacy' },
            ...options
        }
    );
    if (answer) client.setRequestHandler('elicitation/create', async request => answer(request.params));
    await client.connect(transport());
    return client;
}

function transport() {
    if (where.startsWith('[')) {
        const [command, ...rest] = JSON.parse(where);
        return new StdioClientTransport({ command, args: rest, env: process.env });
    }
    return how === 'sse' ? new SSEClientTransport(new URL(where)) : new StreamableHTTPClientTransport(new URL(where));
}
