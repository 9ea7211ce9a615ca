-- What is forgotten is found without a look at all that is kept.
CREATE INDEX runners_ended ON runners (reason, ended_at) WHERE state = 'ended';
CREATE INDEX runners_parent ON runners (parent_id);
