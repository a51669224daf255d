// A certified OAuth server for the tests, on a loopback port: `node server.mjs PORT CLIENTS`.
//
// CLIENTS is a JSON file with the metadata of the clients (RFC 7591), read at every request, so that
// a secret can be rotated while this runs; `lifetime` is that of a client's tokens, in seconds, and
// may end up to one second early, since this server counts in whole ones.
// Tokens are kept in memory: a restart forgets them. Each event is one line of JSON on stdout.

import { readFileSync } from "node:fs";

import Provider, { errors } from "oidc-provider";

const [port, clients] = process.argv.slice(2);

// Node 20 has none, and oidc-provider parses resource indicators by it.
URL.parse ??= (text) => (URL.canParse(text) ? new URL(text) : null);

class Memory {
  static #kinds = new Map();

  constructor(kind) {
    this.kind = kind;
    if (!Memory.#kinds.has(kind)) Memory.#kinds.set(kind, new Map());
    this.kept = Memory.#kinds.get(kind);
  }

  async find(id) {
    if (this.kind !== "Client") return this.kept.get(id);
    return JSON.parse(readFileSync(clients, "utf8")).find((client) => client.client_id === id);
  }

  async upsert(id, payload) {
    this.kept.set(id, payload);
  }

  async destroy(id) {
    this.kept.delete(id);
  }
}

const resources = {
  "https://elsewhere.example/": { scope: "models", accessTokenFormat: "opaque" },
  "https://gateway.example/opaque": { scope: "models", accessTokenFormat: "opaque" },
  "https://gateway.example/jwt": {
    scope: "models",
    accessTokenFormat: "jwt",
    jwt: { sign: { alg: "RS256" } },
  },
};

const provider = new Provider(`http://127.0.0.1:${port}`, {
  adapter: Memory,
  clientAuthMethods: ["client_secret_basic", "client_secret_post", "private_key_jwt"],
  clockTolerance: 0, // An assertion ends when it says.
  extraClientMetadata: { properties: ["lifetime"] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(ctx, resource) {
        if (!(resource in resources)) throw new errors.InvalidTarget();
        return resources[resource];
      },
    },
    revocation: { enabled: true },
  },
  scopes: ["models", "admin"],
  ttl: { ClientCredentials: (ctx, token, client) => client.lifetime ?? 600 },
});

function tell(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

provider.on("grant.success", (ctx) => {
  tell({ event: "granted", client: ctx.oidc.client.clientId });
});
provider.on("grant.error", (ctx, error) => {
  const client = ctx.oidc.params?.client_id ?? null;
  tell({ event: "refused", client, error: error.error, detail: error.error_description });
});
provider.on("client_credentials.destroyed", (token) => {
  tell({ event: "revoked", client: token.clientId });
});
provider.on("server_error", (ctx, error) => {
  tell({ event: "failed", detail: String(error.stack) });
});

provider.listen(Number(port), "127.0.0.1");
