import sys
from tests.sim.plan import plan_of
from tests.sim.world import play
import time
t=time.time(); total=0
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    o = play(plan_of(seed, float(sys.argv[3])))
    total+=o.steps
    print(seed, o.steps, round(o.seconds), o.violation, o.counts, o.margin_s, o.stop_margin_s, o.digest[:8])
    if o.violation and len(sys.argv)>4:
        print("\n".join(o.trace[-int(sys.argv[4]):])); break
print(total/(time.time()-t))
