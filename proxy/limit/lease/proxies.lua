-- KEYS[1] is the sorted set of proxies by when each was last heard of (ms).
-- ARGV: the proxy, how long one counts without being heard of (ms), 1 if it leaves.
-- Returns how many there are.
local t = redis.call('TIME')
local now, life = t[1] * 1000 + math.floor(t[2] / 1000), tonumber(ARGV[2])
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - life)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + life, '+inf') -- of a clock that was ahead
redis.call('PEXPIRE', KEYS[1], 2 * life)
return redis.call('ZCARD', KEYS[1])
