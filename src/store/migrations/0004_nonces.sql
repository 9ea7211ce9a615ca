-- The nonce of the registration that Gitea's row of a runner came by. NULL: it came before nonces were kept, or was
-- adopted.
ALTER TABLE runners ADD COLUMN nonce TEXT;

CREATE INDEX runners_nonce ON runners (nonce) WHERE nonce IS NOT NULL;
