-- KEYS[1] holds the theoretical arrival time of a limit in microseconds.
-- ARGV: tokens wanted (negative: handed back), period in us, requests a period, burst.
-- Returns: tokens given, tokens left, us until there is one, us until the limit is as new, 0.
local t = redis.call('TIME')
local now = (t[1] - 1700000000) * 1000000 + t[2] -- a near epoch keeps fractions of a microsecond in a double
local n, interval, burst = tonumber(ARGV[1]), ARGV[2] / ARGV[3], tonumber(ARGV[4])
local tat = redis.pcall('GET', KEYS[1])
tat = type(tat) == 'string' and tonumber(tat) or now
tat = math.max(tat, now)
if n >= 0 then -- what goes back may be of another burst than what others go by: it takes off no more than itself
  tat = math.min(tat, now + interval * burst) -- a clock that went back must not close the limit for longer
  n = math.min(n, math.floor(burst - (tat - now) / interval + 1e-6))
end
if n ~= 0 then
  tat = math.max(tat + n * interval, now)
  redis.call('SET', KEYS[1], string.format('%.17g', tat), 'PX', math.ceil((tat - now) / 1000) + 1000)
end
local left = burst - (tat - now) / interval + 1e-6
local retry = 0
if left < 1 then
  retry = math.ceil((1 - left) * interval)
end
return {n, math.floor(left), retry, math.ceil(tat - now), 0}
